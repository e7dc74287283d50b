"""What this package adds: checks of every write, telemetry with and without an SDK, timers to a machine without one."""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import repeat
from typing import Any
from unittest.mock import patch

from django.db import connections
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

from benchmarks import stores
from benchmarks.contestants import OURS, cycle, on_store
from benchmarks.measure import CYCLE, Contestant, Run
from benchmarks.order import length, order
from benchmarks.report import Section
from machine_memory import Metadata, SimpleMachineMemory
from machine_memory.backends.database import sql
from machine_memory.core.records import EncodedData
from machine_memory.core.telemetry import Instruments
from machine_memory.core.validation import state as checked_state

SIZES = (1_300, 100_000)
WITH, WITHOUT = "checked", "plain JSON encoding"
MOST_CHECKS = 15
"""Microseconds that the checks may add to a write of the usual state."""
LIMITS = {"max_bytes": 2 * 1024 * 1024, "max_depth": 30}
MACHINES = 1_000
CUT_OUT, API, SDK = "cut out", "the API alone", "SDK, batch exporter"
MOST_API = 10
"""Microseconds that an API without an SDK may add to a cycle."""
TIMED, UNTIMED = "as it is", "without the columns"
MOST_TIMED = 1.03
"""How many times as long a cycle without timers may take as where there are none."""

_plain = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_no_metadata = Metadata()


def _in_vain(*args: object, **details: object) -> None: ...


class _Nothing:
    """In the place of an operation: it is asked for a trace, and told everything in vain."""

    is_recorded = False
    outcome = ""
    __init__ = __exit__ = trace = note = locked = wrote = _in_vain

    def __enter__(self) -> "_Nothing":
        return self


UNCHECKED = {
    "core.validation.state": lambda value, **limits: EncodedData(_plain(value)),
    "core.validation.machine_id": lambda value: value,
    "core.validation.expected_version": lambda value: value,
    "core.validation.metadata": lambda value, data: _no_metadata,
}
UNTOLD = {
    "core.failures.Step": _Nothing,
    "core.telemetry.held": _in_vain,
    "core.telemetry.Instruments.granted": _in_vain,
}


@contextmanager
def _instead(others: Mapping[str, object]) -> Iterator[None]:
    """Put others in the place of parts of this package."""
    with ExitStack() as stack:
        for path, other in others.items():
            stack.enter_context(patch(f"machine_memory.{path}", other))
        yield


def validation(run: Run) -> Section:
    section = Section(
        "Validation",
        "`memory.write` on a SimpleMachineMemory as it is, and with all checks (id, data, metadata, version) replaced"
        " by plain JSON encoding; and the encoding of the data alone.",
    )
    rows = []
    for size in SIZES:
        state = order(size)
        for what, contestants in (("write", _writes(state)), ("encode", _encodings(state))):
            race = run.race(f"validation of {size:,} bytes, {what}", contestants, turn=max(1, 50_000 // size))
            added = race.difference(WITH, WITHOUT)
            rows.append([what, length(state), race.median(WITH), race.median(WITHOUT), added])
            if size == SIZES[0] and what == "write":
                title = f"validation adds to a write of {length(state):,} bytes"
                section.bar(title, added, "µs", most=MOST_CHECKS)
    section.table("Validation", ["", "bytes", f"{WITH}, µs", f"{WITHOUT}, µs", "added, µs"], rows)
    return section


def _writes(state: dict[str, Any]) -> list[Contestant]:
    memory, ids = SimpleMachineMemory(), repeat("order-1")
    steps = {CYCLE: lambda id: memory.write(id, state)}
    return [Contestant(WITH, steps, ids), Contestant(WITHOUT, steps, ids, partial(_instead, UNCHECKED))]


def _encodings(state: dict[str, Any]) -> list[Contestant]:
    checked = {CYCLE: lambda id: checked_state(state, **LIMITS)}
    return [Contestant(WITH, checked, repeat("")), Contestant(WITHOUT, {CYCLE: lambda id: _plain(state)}, repeat(""))]


def telemetry(run: Run) -> Section:
    section = Section(
        "Telemetry",
        "A lease and its commit with all telemetry cut out, as it is where no SDK is set up, and with one that records"
        " each span and metric. Its exporter runs in its own thread, and throws away what it is given.",
    )
    spans, meters = TracerProvider(), MeterProvider([InMemoryMetricReader()])
    spans.add_span_processor(BatchSpanProcessor(SpanExporter()))
    instruments = Instruments(meters.get_meter("machine_memory"))
    told = {"core.telemetry.tracer": spans.get_tracer("machine_memory"), "core.telemetry.instruments": instruments}
    modes: dict[str, dict[str, object]] = {CUT_OUT: UNTOLD, API: {}, SDK: told}
    rows = []
    for store in (stores.SIMPLE, *stores.SERVED):
        where = "in process" if store == stores.SIMPLE else stores.NAMES[store]
        with on_store(store, MACHINES) as those:
            steps = {CYCLE: those[OURS][CYCLE]}
            contestants = [
                Contestant(name, steps, stores.ids(MACHINES), partial(_instead, others))
                for name, others in modes.items()
            ]
            race = run.race(f"telemetry, {where}", contestants, share=0.5, turn=20)
        added = [race.difference(name, CUT_OUT) for name in (API, SDK)]
        if store == stores.SIMPLE:
            section.bar("telemetry without an SDK adds to a cycle", added[0], "µs", most=MOST_API)
        rows.append([where, *map(race.median, modes), *added])
    spans.shutdown()
    meters.shutdown()
    section.table("Telemetry", ["", *(f"{name}, µs" for name in modes), "the API adds, µs", "an SDK adds, µs"], rows)
    return section


def timers(run: Run) -> Section:
    section = Section(
        "Timers",
        "A lease and its commit where no machine has a timer, and the same where the table has no columns for them.",
    )
    rows: list[list[object]] = []
    for store in stores.DATABASES:
        name, bare = stores.NAMES[store], f"{store}-bare"
        settings = connections.settings[store]
        connections.settings[bare] = {**settings, "NAME": f"{settings['NAME']}_bare"}
        with stores.scratch({store: MACHINES, bare: MACHINES}):
            _drop_timers(bare)
            untimed = {
                "backends.database.sql.CHANGES": sql.CHANGES.replace("{attempts} = 0,", ""),
                "backends.database.statements._pages": {},
            }
            contestants = [
                Contestant(TIMED, {CYCLE: cycle(stores.memory(store))}, stores.ids(MACHINES)),
                Contestant(
                    UNTIMED, {CYCLE: cycle(stores.memory(bare))}, stores.ids(MACHINES), partial(_instead, untimed)
                ),
            ]
            race = run.race(f"timers, {name}", contestants, share=3, turn=20)
        ratio = race.ratio(TIMED, UNTIMED)
        rows.append([name, race.median(UNTIMED), race.median(TIMED), ratio])
        section.bar(f"{name}: a cycle without timers against one without their columns", ratio, most=MOST_TIMED)
    section.table("Timers", ["", f"{UNTIMED}, µs", f"{TIMED}, µs", "ratio"], rows)
    return section


def _drop_timers(database: str) -> None:
    connection = connections[database]
    of_the_table = f" ON {stores.TABLE}" if connection.vendor == "mysql" else ""
    with connection.cursor() as cursor:
        cursor.execute(f"DROP INDEX machine_wake{of_the_table}")
        for column in ("wake_at", "attempts"):
            cursor.execute(f"ALTER TABLE {stores.TABLE} DROP COLUMN {column}")
