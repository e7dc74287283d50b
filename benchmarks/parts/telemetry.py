"""What it costs to tell OpenTelemetry of each operation, with and without an SDK that listens."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from benchmarks import databases, lineup, stores
from benchmarks.contestants import Verbs
from benchmarks.measure import Contestant
from benchmarks.order import order
from benchmarks.report import Bar, Section, Table
from benchmarks.run import Run
from machine_memory import telemetry
from machine_memory.backends import steps

MACHINES = 1_000
CUT_OUT, API, SDK = "cut out", "the API alone", "SDK, batch exporter"
CYCLE = "lease + commit"
IN_PROCESS = "in process"
MOST = 10
"""Microseconds that an API without an SDK may add to a cycle."""


def measured(run: Run) -> Section:
    section = Section(
        "Telemetry",
        "A lease and its commit with all telemetry cut out, as it is where no SDK is set up, and with one that records"
        " each span and metric. Its exporter runs in its own thread, and throws away what it is given.",
    )
    rows: list[list[str | float]] = []
    state = order()
    with _listening() as listening:
        ours, *_ = lineup.in_process(MACHINES, state)
        rows.append(_row(run, IN_PROCESS, ours, listening))
        for name in stores.available():
            with stores.scratch(name):
                stores.fill(name, MACHINES)
                with lineup.on_store(name, state) as contestants:
                    rows.append(_row(run, stores.NAMES[name], contestants[0], listening))
    columns = ["", *(f"{name}, µs" for name in (CUT_OUT, API, SDK)), "the API adds, µs", "an SDK adds, µs"]
    section.tables.append(Table("Telemetry", columns, rows))
    added = float(rows[0][-2])
    section.bars.append(Bar(what="telemetry without an SDK adds to a cycle", measured=added, unit="µs", most=MOST))
    return section


def _row(
    run: Run, where: str, ours: Verbs, listening: Callable[[], AbstractContextManager[object]]
) -> list[str | float]:
    modes: Sequence[tuple[str, dict[str, Any]]] = [
        (CUT_OUT, {"around": _cut_out}),
        (API, {}),
        (SDK, {"around": listening}),
    ]
    contestants = [
        Contestant(name=name, steps={CYCLE: ours.cycle}, ids=databases.ids(MACHINES), **around)
        for name, around in modes
    ]
    race = run.race(f"telemetry, {where}", contestants, share=0.5, turn=20)
    medians = [race.median(name, CYCLE) for name, _ in modes]
    return [where, *medians, *(race.difference(name, CYCLE, CUT_OUT) for name in (API, SDK))]


class _Nothing:
    """In the place of an operation: it is asked for a trace, and told everything in vain."""

    is_recorded = False
    outcome = ""

    def __init__(self, *args: object, **options: object) -> None:
        """Forget what it is about."""

    def __enter__(self) -> "_Nothing":
        return self

    def __exit__(self, *failure: object) -> None:
        """Let it be raised."""

    def trace(self) -> None:
        """Have none."""

    def note(self, **details: object) -> None:
        """Do nothing, as the following."""

    def locked(self, *args: object) -> None: ...

    def wrote(self, *args: object) -> None: ...


def _in_vain(*args: object) -> None: ...


@contextmanager
def _cut_out() -> Iterator[None]:
    with (
        patch.object(steps, "Step", _Nothing),
        patch.object(telemetry, "held", _in_vain),
        patch.object(telemetry.Instruments, "granted", _in_vain),
    ):
        yield


class _Discard(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


@contextmanager
def _listening() -> Iterator[Callable[[], AbstractContextManager[object]]]:
    """Yield what lets an SDK listen."""
    spans, meters = TracerProvider(), MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
    spans.add_span_processor(BatchSpanProcessor(_Discard()))
    tracer = spans.get_tracer("machine_memory")
    instruments = telemetry.Instruments(meters.get_meter("machine_memory"))

    @contextmanager
    def listening() -> Iterator[None]:
        with patch.object(telemetry, "tracer", tracer), patch.object(telemetry, "instruments", instruments):
            yield

    with ExitStack() as stack:
        stack.callback(spans.shutdown)
        stack.callback(meters.shutdown)
        yield listening
