"""Some machines for people to see: a look that is bounded, however many there are."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any

from redis import Redis

from machine_memory.backends.redis.hashes import SCANNED, Hashes, as_number, as_time, possible_time
from machine_memory.core.encoding import decode
from machine_memory.core.records import Look, Machine, Sought

MOST = 5_000
"""Keys that one look goes through, about."""
LAST_CURSOR = 2**64 - 1
NAMES = [field.name for field in fields(Machine) if field.name not in ("id", "now", "data")]
TELLING = {
    "status": ["status"],
    "parent": ["parent"],
    "root": ["root"],
    "lease": ["lease_expires_at"],
    "leased": ["lease_expires_at"],
    "timer": ["wake_at", "attempts", "lease_expires_at"],
}
"""The fields that tell whether a machine is what is sought; to ask for these alone takes half the time."""


def look(hashes: Hashes, servers: Sequence[Redis], sought: Sought, start: str, limit: int) -> Look:
    """Go on from ``start`` through the keys of these servers until enough is found; a guess for an id is looked at."""
    number, cursor = _place(start)
    found = _found(hashes, [sought.prefix], sought) if sought.prefix and not start else {}
    looked, count = 0, limit
    while number < len(servers) and len(found) < limit and looked < MOST:
        cursor, ids = hashes.scan_on(servers[number], cursor, count, prefix=sought.prefix or "")
        found |= _found(hashes, ids, sought)
        looked, count = looked + count, min(2 * count, SCANNED)
        number += not cursor
    further = f"{number}.{cursor}" if number < len(servers) else ""
    return Look(sorted(found.values(), key=lambda machine: machine.id), further)


def _place(start: str) -> tuple[int, int]:
    number, _, cursor = start.partition(".")
    return as_number(number[:5]), min(as_number(cursor[:20]), LAST_CURSOR)  # It comes from an address.


def _found(hashes: Hashes, ids: Collection[str], sought: Sought) -> dict[str, Machine]:
    if telling := {name for asked, names in TELLING.items() if getattr(sought, asked) for name in names}:
        ids = [machine.id for machine in _machines(hashes, ids, ["fence", *telling]) if sought.is_met_by(machine)]
    return {machine.id: machine for machine in _machines(hashes, ids, NAMES) if sought.is_met_by(machine)}


def look_at(hashes: Hashes, ids: Collection[str], *, with_data: bool = False) -> Iterator[Machine]:
    return _machines(hashes, ids, [*NAMES, "data"] if with_data else NAMES)


def _machines(hashes: Hashes, ids: Collection[str], names: Sequence[str]) -> Iterator[Machine]:
    for id, now, values in hashes.rows(ids, names) if ids else ():
        row: dict[str, Any] = dict.fromkeys(NAMES) | dict(zip(names, values, strict=True))
        if row["fence"] is not None:
            yield Machine(id=id, now=as_time(now), **_known(row))


def _known(row: dict[str, Any]) -> dict[str, Any]:
    times = {name: _time(value) for name, value in row.items() if name.endswith("_at")}
    counts = {name: as_number(row[name]) for name in ("version", "fence", "attempts")}
    return {**row, **times, **counts, "data": decode(row.get("data"))}


def _time(value: str | None) -> datetime | None:
    return possible_time(as_number(value)) if value else None
