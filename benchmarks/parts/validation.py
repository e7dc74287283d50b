"""What the checks cost that every write goes through."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import repeat
from typing import Any
from unittest.mock import patch

from benchmarks.measure import Contestant
from benchmarks.order import length, order
from benchmarks.report import Bar, Cell, Section, Table
from benchmarks.run import Run
from machine_memory import Metadata, SimpleMachineMemory, encoding, records, validation

SIZES = (1_300, 100_000)
WITH, WITHOUT = "checked", "plain JSON encoding"
STEP = "step"
MOST = 15
"""Microseconds that the checks may add to a write of the usual state."""
LIMITS = {"max_bytes": 2 * 1024 * 1024, "max_depth": 30}

_plain = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def measured(run: Run) -> Section:
    section = Section(
        "Validation",
        "`memory.write` on a SimpleMachineMemory as it is, and with all checks (id, data, metadata, version) replaced"
        " by plain JSON encoding; and the encoding of the data alone.",
    )
    rows: list[list[Cell]] = []
    for size in SIZES:
        state = order(size)
        for what, contestants in (("write", _writes(state)), ("encode", _encodings(state))):
            race = run.race(f"validation of {size:,} bytes, {what}", contestants, turn=max(1, 50_000 // size))
            added = race.difference(WITH, STEP, WITHOUT)
            rows.append([what, length(state), race.median(WITH, STEP), race.median(WITHOUT, STEP), added])
            if size == SIZES[0] and what == "write":
                title = f"validation adds to a write of {length(state):,} bytes"
                section.bars.append(Bar(what=title, measured=added, unit="µs", most=MOST))
    section.tables.append(Table("Validation", ["", "bytes", f"{WITH}, µs", f"{WITHOUT}, µs", "added, µs"], rows))
    return section


def _writes(state: dict[str, Any]) -> list[Contestant]:
    memory = SimpleMachineMemory()
    steps = {STEP: lambda id: memory.write(id, state)}
    return [
        Contestant(name=WITH, steps=steps, ids=repeat("order-1")),
        Contestant(name=WITHOUT, steps=steps, ids=repeat("order-1"), around=_unchecked),
    ]


def _encodings(state: dict[str, Any]) -> list[Contestant]:
    return [
        Contestant(name=WITH, steps={STEP: lambda id: encoding.encode(state, **LIMITS)}, ids=repeat("")),
        Contestant(name=WITHOUT, steps={STEP: lambda id: _plain(state)}, ids=repeat("")),
    ]


@contextmanager
def _unchecked() -> Iterator[None]:
    def encode(value: object, **limits: int) -> records.EncodedData:
        return records.EncodedData(_plain(value))

    def metadata(value: object, data: Mapping[str, object]) -> Metadata:
        return _NONE

    def as_it_is(value: object, *args: object) -> object:
        return value

    with (
        patch.object(encoding, "encode", encode),
        patch.object(validation, "machine_id", as_it_is),
        patch.object(validation, "expected_version", as_it_is),
        patch.object(validation, "metadata", metadata),
    ):
        yield


_NONE = Metadata()
