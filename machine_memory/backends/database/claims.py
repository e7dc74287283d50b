"""Claiming: in one statement, or where that takes several, in one short transaction that passes rows in use over."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from machine_memory.backends.database import sql
from machine_memory.backends.database.clock import as_utc, doubled
from machine_memory.backends.database.queries import MachineQuerySet
from machine_memory.core.encoding import as_stored
from machine_memory.core.records import Claim, Claimed, Due, Grant


def names(kind: str, vendor: str, known: Mapping[str, str]) -> dict[str, str]:
    """Return what is alike of all that is put into the statements of a claim."""
    new_lease, asleep = known["new_lease"], known["asleep"]
    if kind != "postgresql":
        # The rows of one statement are changed by another: with the fences and by the time that the first has told.
        new_lease = new_lease.replace(known["fence_clock"], "%(microseconds)s")
        asleep = asleep.replace(known["now"], "%(seen_at)s")
    again = doubled(vendor, "%(again)s", known["attempts"])
    return {
        "new_lease": new_lease.replace(known["token"], sql.NUMBERED[kind].format(**known)),
        "rearmed": sql.REARMED.format(**{**known, "asleep": asleep, "doubled": again}),
    }


def choices(names: Mapping[str, str]) -> Iterator[tuple[tuple[bool, bool], dict[str, str]]]:
    """Yield what differs, by whether it is for what has expired, and of one status."""
    attempts, wake_at, expires_at = names["attempts"], names["wake_at"], names["lease_expires_at"]
    for of_status, status in ((False, ""), (True, sql.OF_STATUS.format(**names))):
        for expired, due_at, claimable, order in (
            (False, wake_at, names["open"], f"{wake_at}, {attempts}"),
            (True, expires_at, f"{attempts} < %(max_attempts)s", expires_at),
        ):
            due = f"{due_at} <= {names['now']} AND {claimable} {status}"
            kept = sql.DUE_COLUMNS.format(**names, due_at=due_at)
            yield (expired, of_status), {"due_at": due_at, "due": due, "order": order, "kept": kept}


def claimed(row: Any, connection: BaseDatabaseWrapper) -> Claimed:
    """Return what a row of ``sql.CLAIM`` says."""
    token, data, version, fence, evicted, id, *why = row
    return Claimed(id, token, Grant(as_stored(data), version, fence, evicted, _due(connection, *why)))


def taken(row: Any, token: str, connection: BaseDatabaseWrapper) -> Claimed:
    """Return what becomes of a row of ``sql.KEEP_DUE`` by ``sql.TAKE_DUE``."""
    id, data, version, fence, evicted, at, now, attempts, asleep, clock = row
    grant = token, data, version, max(fence + 1, clock), evicted
    return claimed((*grant, id, at, now, attempts + 1, asleep), connection)


def in_transaction(machines: MachineQuerySet, claim: Claim, pending: dict[str, str]) -> list[Claimed]:
    """Grant leases of what is due, by the forms of the ORM."""
    connection, due = connections[machines.db], machines.claimable(claim)
    if not machines._skips and not due.exists():  # Nobody is to wait for a poll that finds nothing.
        return []
    with machines.keeping(briefly=True):
        rows = due.unused().values_list("pk", "due_at", "now", "attempts", "is_asleep")[: claim.limit]
        found = {claim.token(number): row for number, row in enumerate(rows)}
        if not found:
            return []
        asked = {token: id for token, (id, *_) in sorted(found.items(), key=lambda item: item[1][0])}
        pending |= asked
        granted = machines.acquire_each(asked, owner=claim.owner, ttl=claim.ttl, trace=claim.trace)
        for token in granted:  # Each by its key: see ``sql.KEEP_DUE_BY_KEY``.
            machines.filter(pk=asked[token]).rearm(claim, is_asleep=found[token][-1])

    return [
        Claimed(id, token, replace(granted[token], due=_due(connection, at, now, attempts + 1, is_asleep)))
        for token, (id, at, now, attempts, is_asleep) in found.items()
        if token in granted
    ]


def _due(connection: BaseDatabaseWrapper, at: Any, now: Any, attempts: int, is_asleep: Any) -> Due:
    at, now = (as_utc(_moment(time), connection) for time in (at, now))
    return Due(at, (now - at).total_seconds(), attempts, rearmed=not is_asleep)


def _moment(time: datetime | str) -> datetime:
    return datetime.fromisoformat(time) if isinstance(time, str) else time  # As SQLite has it.
