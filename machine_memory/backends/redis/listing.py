"""What is made of a hash, and which of those that were looked through are listed."""

from collections.abc import Iterable
from dataclasses import fields
from heapq import nsmallest
from typing import Any, TypeVar

from machine_memory.backends.redis.hashes import as_number, as_time, microseconds
from machine_memory.core.records import Criteria, LockInfo, Record, Snapshot, Summary

T = TypeVar("T")
RECORD_FIELDS = [field.name for field in fields(Record) if field.name != "id"]
SUMMARY_FIELDS = [field.name for field in fields(Summary) if field.name != "id"]
SNAPSHOT_FIELDS = [*SUMMARY_FIELDS, "data", "wake_at", "attempts"]
FOUND_BY = [*SUMMARY_FIELDS, "wake_at", "attempts", "lease_expires_at"]
LOCK_FIELDS = ["lease_owner", "fence", "lease_acquired_at", "lease_expires_at"]


def told(row: dict[str, Any]) -> dict[str, Any]:
    known = {name: row[name] for name in SUMMARY_FIELDS}
    counted = {name: as_number(row[name]) for name in ("version", "fence")}
    return known | counted | {name: as_time(as_number(row[name])) for name in ("created_at", "written_at")}


def snapshot(id: str, row: dict[str, Any]) -> Snapshot:
    wake_at = None if row["wake_at"] is None else as_time(as_number(row["wake_at"]))
    attempts = as_number(row["attempts"])
    return Snapshot(id=id, text=row["data"] or "null", wake_at=wake_at, attempts=attempts, **told(row))


def meets(row: dict[str, str | None], criteria: Criteria, now: int) -> bool:
    is_idle = criteria.idle is None or as_number(row["written_at"]) <= now - microseconds(criteria.idle)
    is_open = not row["wake_at"] and as_number(row["lease_expires_at"]) <= now
    is_exhausted = is_open and as_number(row["attempts"]) > 0
    matches = criteria.status in (None, row["status"]) and criteria.exhausted in (None, is_exhausted)
    return row["version"] is not None and is_idle and matches


def first_by_id(count: int, found: Iterable[tuple[str, T]]) -> list[T]:
    """Return what comes first by id, of what may come twice."""
    first: dict[str, T] = {}
    for id, one in found:
        first[id] = one
        if len(first) >= 2 * count:
            first = dict(nsmallest(count, first.items()))
    return [one for _, one in nsmallest(count, first.items())]


def is_live(row: list[str | None], now: int) -> bool:
    return as_number(row[-1]) > now


def lock_info(id: str, row: list[str | None]) -> LockInfo:
    owner, fence, acquired_at, expires_at = row
    locked, expires = as_time(as_number(acquired_at)), as_time(as_number(expires_at))
    return LockInfo(id=id, owner=owner or "", fence=as_number(fence), locked_at=locked, expires_at=expires)
