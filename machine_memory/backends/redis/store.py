"""The store in Redis: one hash each, and one script for each step."""

from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import Any

from django.core.checks import CheckMessage
from redis import ConnectionError, RedisError

from machine_memory.backends.redis import checks, doctor, look, scripts
from machine_memory.backends.redis.client import NoPrimary, address_of, is_reply_lost, is_transient
from machine_memory.backends.redis.due import claim_due, claim_expired
from machine_memory.backends.redis.hashes import (
    Hashes,
    answered,
    as_number,
    as_text,
    done,
    microseconds,
    without_others,
)
from machine_memory.backends.redis.indexes import Ahead, Indexes, wakes_at
from machine_memory.backends.redis.listing import (
    FOUND_BY,
    LOCK_FIELDS,
    RECORD_FIELDS,
    SNAPSHOT_FIELDS,
    first_by_id,
    is_live,
    lock_info,
    meets,
    snapshot,
    told,
)
from machine_memory.backends.redis.relatives import relations
from machine_memory.backends.redis.scripts import Script
from machine_memory.backends.redis.servers import Servers, raise_lost
from machine_memory.core.encoding import as_stored, decode
from machine_memory.core.records import (
    Change,
    Claim,
    Claimed,
    Criteria,
    Grant,
    LeaseRef,
    LockInfo,
    Look,
    Machine,
    PurgeResult,
    Record,
    Reindexed,
    Resumption,
    Retention,
    Snapshot,
    Sought,
    Summary,
)
from machine_memory.core.store import Probe, Store, UnknownGrant, refusal, reply_lost
from machine_memory.core.validation import quoted
from machine_memory.exceptions import InvalidConfiguration, WriteError

AHEAD = 5
"""How often a write goes ahead of itself, where its hints come to be out of date meanwhile."""


class RedisStore(Store):
    """Machines in the hashes of a namespace, asked for by a client that repeats nothing."""

    name = "redis"
    failures = (RedisError,)
    system = "redis"

    def __init__(self, servers: Servers, namespace: str, *, cache: str | None) -> None:
        self._servers, self._cache = servers, cache
        self.place = f"in Redis, under {quoted(namespace)}" if cache is None else f"in cache {quoted(cache)}"
        self._hashes = Hashes(servers, namespace)
        self._indexes = Indexes(self._hashes)

    @property
    def host(self) -> str:
        return address_of(self._servers.example.connection_pool)

    def read(self, id: str) -> object:
        (data,) = self._hashes.values(id, "data")
        return decode(data)

    def record(self, id: str) -> Record | None:
        row: dict[str, Any] = dict(zip(RECORD_FIELDS, self._hashes.values(id, *RECORD_FIELDS), strict=True))
        if row["version"] is None:
            return None
        return Record(**told(row) | {"id": id, "data": decode(row["data"])})

    def write(self, change: Change) -> int:
        for _ in range(AHEAD):
            columns = _columns(change, self._indexes.go_ahead([change]))
            reply = self._change("write", scripts.WRITE, change.id, change.token, change.expected_version, *columns)
            if version := self._indexes.written(change.id, reply):
                return version
        raise _came_too_late(change.id)

    def write_each(self, changes: Collection[Change]) -> set[str]:
        ahead = self._indexes.go_ahead(changes)
        calls = [(change.id, change.token, change.expected_version, *_columns(change, ahead)) for change in changes]
        replies = self._hashes.run_each(scripts.WRITE, calls)
        try:
            raise_lost(replies)
        except RedisError as failure:
            raise reply_lost("write", next(iter(changes)).id) from failure
        written = zip(changes, replies, strict=True)
        return {change.id for change, reply in written if self._indexes.written(change.id, reply)}

    def acquire(self, id: str, *, token: str, owner: str, ttl: float, trace: str | None) -> Grant | None:
        try:
            row = self._hashes.run(scripts.ACQUIRE, id, token, owner, microseconds(ttl), trace)
        except RedisError as failure:
            if not is_reply_lost(failure):
                raise
            # After a timeout the server is given no second one.
            raise UnknownGrant(id, failure, may_ask=isinstance(failure, ConnectionError)) from failure
        if not row:
            return None
        return _granted(row)

    def acquire_each(self, asked: Mapping[str, str], *, owner: str, ttl: float, trace: str | None) -> dict[str, Grant]:
        calls = [(id, token, owner, microseconds(ttl), trace) for token, id in asked.items()]
        try:
            rows = done(without_others(self._hashes.run_each(scripts.ACQUIRE, calls)))
        except RedisError as failure:
            if is_reply_lost(failure):
                raise UnknownGrant(calls[0][0], failure, may_ask=False) from failure
            raise
        return {token: _granted(row) for token, row in zip(asked, rows, strict=True) if row}

    def claim(self, claim: Claim, pending: dict[str, str]) -> list[Claimed]:
        return (claim_expired if claim.expired else claim_due)(self._hashes, self._indexes.due, claim, pending)

    def granted(self, id: str, *, token: str) -> Grant | None:
        holder, *row = self._hashes.values(id, "lease_token", "data", "version", "fence")
        return _grant(*row) if holder == token else None

    def resume(self, id: str, *, token: str, ttl: float | None) -> Resumption | None:
        row = self._hashes.run(scripts.RESUME, id, token, None if ttl is None else microseconds(ttl))
        if not row:
            return None
        data, version, fence, owner, left = row
        return Resumption(as_stored(as_text(data)), version, fence, owner=as_text(owner) or "", left=left / 1_000_000)

    def holder_trace(self, id: str) -> str | None:
        # Of a lease that is over by now, too: it was live a moment ago, when the lock was denied.
        trace: str | None
        (trace,) = self._hashes.values(id, "lease_trace")
        return trace

    def holder(self, id: str) -> LockInfo | None:
        now, row = self._hashes.timed(id, *LOCK_FIELDS)
        return lock_info(id, row) if is_live(row, now) else None

    def renew(self, id: str, *, token: str, ttl: float) -> bool:
        return bool(self._hashes.run(scripts.RENEW, id, token, microseconds(ttl)))

    def renew_each(self, leases: Collection[LeaseRef]) -> tuple[set[str], set[str]]:
        calls = [(id, token, microseconds(ttl)) for id, token, ttl in leases]
        replies = answered(self._hashes.run_each(scripts.RENEW, calls))
        renewed = {token for (_, token, _), reply in zip(leases, replies, strict=True) if reply == 1}
        return renewed, {token for (_, token, _), reply in zip(leases, replies, strict=True) if reply == 0}

    def release_each(self, leases: Collection[LeaseRef]) -> set[str]:
        replies = answered(self._hashes.run_each(scripts.RELEASE, [(id, token) for id, token, _ in leases]))
        return {
            token for (_, token, _), reply in zip(leases, replies, strict=True) if not isinstance(reply, RedisError)
        }

    def release(self, id: str, *, token: str | None) -> bool:
        return bool(self._hashes.run(scripts.RELEASE, id, token))

    def force_release(self, id: str, *, fence: int | None) -> bool:
        return bool(self._hashes.run(scripts.FORCE_RELEASE, id, fence))

    def remove(self, id: str, *, token: str | None) -> None:
        _, *had, timer = self._change("cleanup", scripts.REMOVE, id, token, None)
        self._indexes.ended(id, timer)
        self._indexes.forget(relations([(id, had)]))

    def held_locks(self, after: str) -> list[LockInfo]:
        rows = self._hashes.scan(*LOCK_FIELDS)
        return first_by_id(
            self.batch, ((id, lock_info(id, row)) for id, now, row in rows if id > after and is_live(row, now))
        )

    def find(self, criteria: Criteria, after: str, limit: int) -> list[Summary]:
        scanned = self._hashes.scan(*FOUND_BY, prefix=criteria.prefix or "")
        rows = ((id, now, dict(zip(FOUND_BY, values, strict=True))) for id, now, values in scanned if id > after)
        return first_by_id(
            limit, ((id, Summary(id=id, **told(row))) for id, now, row in rows if meets(row, criteria, now))
        )

    def look(self, sought: Sought, start: str, limit: int) -> Look:
        return look.look(self._hashes, self._servers.primaries(), sought, start, limit)

    def look_at(self, ids: Collection[str], *, with_data: bool = False) -> list[Machine]:
        return list(look.look_at(self._hashes, ids, with_data=with_data))

    def purge_locks(self, *, older_than: float, batch_size: int, dry_run: bool) -> Iterator[PurgeResult]:
        age = microseconds(older_than)
        expired = (
            (id, version)
            for id, now, (expires_at, version) in self._hashes.scan("lease_expires_at", "version")
            if 0 < as_number(expires_at) <= now - age
        )
        while found := list(islice(expired, batch_size)):
            if dry_run:
                counts = [(1, 0) if version else (0, 1) for _, version in found]
            else:
                counts = done(self._hashes.run_each(scripts.PURGE, [(id, age) for id, _ in found]))
            cleared, deleted = map(sum, zip(*counts, strict=True))
            yield PurgeResult(cleared=cleared, deleted=deleted)

    def purge_machines(self, retention: Retention, *, batch_size: int, dry_run: bool) -> Iterator[PurgeResult]:
        if retention.tree:
            raise InvalidConfiguration("In Redis no step spans a tree: purge its machines without `tree`.")
        idle, names = microseconds(retention.idle), ("status", "written_at", "lease_expires_at", "wake_at")
        retired = (
            id
            for id, now, (status, written_at, expires_at, wake_at) in self._hashes.scan(*names)
            if status == retention.status and as_number(written_at) <= now - idle and as_number(expires_at) <= now
            if wake_at is None
        )
        while ids := list(islice(retired, batch_size)):
            if dry_run:
                sizes = done(self._hashes.asked([(key, "HSTRLEN", key, "data") for key in map(self._hashes.key, ids)]))
                yield PurgeResult(deleted=len(ids), bytes=sum(sizes))
            else:
                calls = [(id, retention.status, idle) for id in ids]
                replies = done(self._hashes.run_each(scripts.RETIRE, calls))
                retired_now = [(id, had) for id, (gone, *had) in zip(ids, replies, strict=True) if gone]
                self._indexes.forget(relations(retired_now))
                yield PurgeResult(deleted=len(retired_now))

    def children(self, id: str) -> list[str]:
        return sorted(self._indexes.relatives.children(id))

    def tree(self, root: str) -> list[str]:
        return sorted(self._indexes.relatives.tree(root))

    def export(self, ids: Collection[str]) -> list[Snapshot]:
        rows = self._hashes.rows(ids, SNAPSHOT_FIELDS)
        found = ((id, dict(zip(SNAPSHOT_FIELDS, row, strict=True))) for id, _, row in rows)
        return [snapshot(id, row) for id, row in found if row["version"] is not None]

    def adopt(self, machines: Collection[Snapshot]) -> set[str]:
        left, adopted = {machine.id: machine for machine in machines}, set[str]()
        for _ in range(AHEAD):
            timers, related = self._indexes.go_ahead_of(left.values())
            calls = [_adoption(machine, timers.get(id), related) for id, machine in left.items()]
            replies = dict(zip(left, done(self._hashes.run_each(scripts.ADOPT, calls)), strict=True))
            adopted |= {id for id, reply in replies.items() if reply == 1}
            left = {id: left[id] for id, reply in replies.items() if reply < 0}
            if not left:
                return adopted
        raise _came_too_late(next(iter(left)))

    def reindex(self, *, dry_run: bool) -> Iterator[Reindexed]:
        return self._indexes.mend(dry_run=dry_run)

    def check(self, *, deploy: bool) -> Iterator[CheckMessage]:
        """Yield what makes this Redis, or the way to it, unsafe for machines."""
        if deploy:
            yield from checks.nodes(self._servers)
            return
        if self._cache is not None:
            yield from checks.cache(self._cache)
        yield from checks.client(self._servers.example)

    def probes(self) -> Iterator[tuple[str, Probe]]:
        return doctor.probes(self._servers, self._cache, self._indexes)

    def may_read_again(self, failure: BaseException) -> bool:
        return isinstance(failure, RedisError) and is_transient(failure)

    def clear(self) -> None:
        self._hashes.clear()

    def note(self, failure: Exception) -> None:
        # An old connection leads to a replica, where a new one may not. Redis 6.2 says so in the text alone.
        if isinstance(failure, NoPrimary) or "READONLY" in str(failure):
            self.start_afresh()

    def start_afresh(self) -> None:
        self._servers.start_afresh()

    def _change(
        self, what: str, script: Script, id: str, token: str | None, expected_version: int | None, *args: str | None
    ) -> Any:
        """Run a script that changes a machine, and return its reply, or raise why it refuses."""
        try:
            reply = self._hashes.run(script, id, token, expected_version, *args)
        except RedisError as failure:
            if is_reply_lost(failure):
                raise reply_lost(what, id) from failure
            raise
        if isinstance(reply, list) and not reply[0]:
            _, holder, version = reply
            reason = refusal(
                id, token=token, live_token=as_text(holder) or None, version=version, expected_version=expected_version
            )
            if reason:
                raise reason
        return reply


def _came_too_late(id: str) -> WriteError:
    return WriteError(
        f"The hints that go ahead of {quoted(id)} came too late {AHEAD} times. Nothing was changed. Try again, and let"
        " NTP set the clocks of all nodes of a cluster."
    )


def _columns(change: Change, ahead: Ahead) -> tuple[str | None, ...]:
    """Return what WRITE is told after token and version, without what is empty at the end: each costs both sides."""
    labels = change.metadata
    extend = None if change.extend is None else str(microseconds(change.extend))
    columns = ["1" if change.release else None, change.data, labels.status, labels.source, labels.initiator]
    columns += [extend, wakes_at(change.wake_at) or None, ahead.timer, ahead.related]
    if not change.expected_version:  # What has a state keeps its relatives.
        columns += [labels.parent, ahead.roots.get(change.id, change.id)]
    while columns[-1] is None:
        columns.pop()
    return tuple(columns)


def _adoption(machine: Snapshot, timer: str | None, related: str | None) -> tuple[str | int | None, ...]:
    times = {name: getattr(machine, name) for name in ("created_at", "written_at", "wake_at")}
    values = {
        "data": machine.text,
        "attempts": machine.attempts or None,
        **{name: getattr(machine, name) for name in ("status", "source", "initiator", "parent", "root")},
        **{name: wakes_at(time) for name, time in times.items() if time is not None},
    }
    fields = (one for field in values.items() for one in field)
    return (machine.id, machine.version, machine.fence, timer, related if machine.parent else None, *fields)


def _granted(row: list[Any]) -> Grant:
    data, version, fence, evicted = row
    return _grant(as_text(data), version, fence, as_text(evicted))


def _grant(data: str | None, version: str | int, fence: str | int, evicted: str | None = None) -> Grant:
    return Grant(as_stored(data), int(version), int(fence), evicted)
