"""Memory in Redis, through django-redis or a client of one's own."""

from collections.abc import Collection, Iterator
from dataclasses import fields
from heapq import nsmallest
from itertools import islice
from typing import TYPE_CHECKING, Any

from redis import ConnectionError, RedisError

from machine_memory import lua, redis_client
from machine_memory.backends.primitives import UnknownGrant, refusal, reply_lost
from machine_memory.backends.redis_hashes import RedisHashes, as_number, as_text, as_time, microseconds
from machine_memory.encoding import decode
from machine_memory.exceptions import InvalidConfiguration
from machine_memory.records import Change, EncodedData, Grant, LockInfo, PurgeResult, Record, Retention
from machine_memory.validation import quoted

if TYPE_CHECKING:
    from machine_memory.lease import Lease

RECORD_FIELDS = [field.name for field in fields(Record) if field.name != "id"]
LOCK_FIELDS = ["lease_owner", "fence", "lease_acquired_at", "lease_expires_at"]


class RedisMachineMemory(RedisHashes):
    """Keep machines in Redis, one hash each: where the alias ``cache`` of ``CACHES`` says, or the ``client``.

    Of the alias the address, the timeouts, prefix and version are used; its serializer, its retries and
    ``IGNORE_EXCEPTIONS`` are not. ``key_prefix`` goes with ``client``.
    """

    def _read(self, id: str) -> object:
        (data,) = self._values(id, "data")
        return decode(data)

    def _record(self, id: str) -> Record | None:
        row: dict[str, Any] = dict(zip(RECORD_FIELDS, self._values(id, *RECORD_FIELDS), strict=True))
        if row["version"] is None:
            return None
        row |= {name: as_number(row[name]) for name in ("version", "fence")}
        row |= {name: as_time(row[name]) for name in ("created_at", "written_at")}
        return Record(**row | {"id": id, "data": decode(row["data"])})

    def _write(self, change: Change) -> int:
        labels = change.metadata
        root = "" if change.expected_version else self._root(change.id, labels.parent)
        columns = (change.data, labels.status, labels.source, labels.initiator, labels.parent, root)
        release = "1" if change.release else None
        extend = None if change.extend is None else str(microseconds(change.extend))
        try:
            return self._change(lua.WRITE, change.id, change.token, change.expected_version, release, extend, *columns)
        except RedisError as failure:
            if redis_client.is_reply_lost(failure):
                raise reply_lost("write", change.id) from failure
            raise

    def _root(self, id: str, parent: str | None) -> str:
        # Once a parent has a root it keeps it, so that nothing is lost between this and the script.
        if parent is None:
            return id
        (root,) = self._values(parent, "root")
        return root or parent

    def _acquire(self, id: str, *, token: str, owner: str, ttl: float, trace: str | None) -> Grant | None:
        try:
            row = self._run(lua.ACQUIRE, id, token, owner, microseconds(ttl), trace)
        except RedisError as failure:
            if not redis_client.is_reply_lost(failure):
                raise
            # After a timeout the server is given no second one.
            grant = self._claim(id, token) if isinstance(failure, ConnectionError) else None
            if grant is None:
                raise UnknownGrant(f"The store failed to lock {quoted(id)} ({type(failure).__name__}).") from failure
            return grant
        if not row:
            return None
        data, version, fence, evicted = row
        return _grant(as_text(data), version, fence, as_text(evicted))

    def _claim(self, id: str, token: str) -> Grant | None:
        """Find the lease that was granted with a reply that never came."""
        try:
            holder, *row = self._values(id, "lease_token", "data", "version", "fence")
        except RedisError:
            return None  # The store is down, as the caller is about to be told.
        return _grant(*row) if holder == token else None

    def _holder_trace(self, id: str) -> str | None:
        # Of a lease that is over by now, too: it was live a moment ago, when the lock was denied.
        trace: str | None
        (trace,) = self._values(id, "lease_trace")
        return trace

    def _holder(self, id: str) -> LockInfo | None:
        ((id, now, row),) = self._rows([id], LOCK_FIELDS)
        return _lock_info(id, row) if _is_live(row, now) else None

    def _renew(self, id: str, *, token: str, ttl: float) -> bool:
        return bool(self._run(lua.RENEW, id, token, microseconds(ttl)))

    def _renew_each(self, leases: "Collection[Lease]") -> tuple[set[str], set[str]]:
        done = self._run_each(lua.RENEW, [(lease.id, lease._token, microseconds(lease.ttl)) for lease in leases])
        renewed = {lease._token for lease, was_live in zip(leases, done, strict=True) if was_live}
        return renewed, {lease._token for lease in leases} - renewed

    def _release_each(self, leases: "Collection[Lease]") -> set[str]:
        self._run_each(lua.RELEASE, [(lease.id, lease._token) for lease in leases])
        return {lease._token for lease in leases}

    def _release(self, id: str, *, token: str | None) -> bool:
        return bool(self._run(lua.RELEASE, id, token))

    def _force_release(self, id: str, *, fence: int | None) -> bool:
        return bool(self._run(lua.FORCE_RELEASE, id, fence))

    def _remove(self, id: str, *, token: str | None) -> None:
        try:
            self._change(lua.REMOVE, id, token, None)
        except RedisError as failure:
            if redis_client.is_reply_lost(failure):
                raise reply_lost("cleanup", id) from failure
            raise

    def _held_locks(self, after: str) -> list[LockInfo]:
        live = (_lock_info(id, row) for id, now, row in self._scan(*LOCK_FIELDS) if id > after and _is_live(row, now))
        return nsmallest(self.batch, live, key=lambda info: info.id)

    def _purge_locks(self, *, older_than: float, batch_size: int, dry_run: bool) -> Iterator[PurgeResult]:
        age = microseconds(older_than)
        expired = (
            (id, version)
            for id, now, (expires_at, version) in self._scan("lease_expires_at", "version")
            if 0 < as_number(expires_at) <= now - age
        )
        while found := list(islice(expired, batch_size)):
            if dry_run:
                counts = [(1, 0) if version else (0, 1) for _, version in found]
            else:
                counts = self._run_each(lua.PURGE, [(id, age) for id, _ in found])
            cleared, deleted = map(sum, zip(*counts, strict=True))
            yield PurgeResult(cleared=cleared, deleted=deleted)

    def _purge_machines(self, retention: Retention, *, batch_size: int, dry_run: bool) -> Iterator[PurgeResult]:
        if retention.tree:
            raise InvalidConfiguration("In Redis no step spans a tree: purge its machines without `tree`.")
        idle = microseconds(retention.idle)
        retired = (
            id
            for id, now, (status, written_at, expires_at) in self._scan("status", "written_at", "lease_expires_at")
            if status == retention.status and as_number(written_at) <= now - idle and as_number(expires_at) <= now
        )
        while ids := list(islice(retired, batch_size)):
            if dry_run:
                with self._client.pipeline(transaction=False) as pipeline:
                    for id in ids:
                        pipeline.hstrlen(self._key(id), "data")
                    yield PurgeResult(deleted=len(ids), bytes=sum(pipeline.execute()))
            else:
                yield PurgeResult(deleted=sum(self._run_each(lua.RETIRE, [(id, retention.status, idle) for id in ids])))

    def _children(self, id: str) -> list[str]:
        return sorted({child for child, _, (parent,) in self._scan("parent") if parent == id})

    def _tree(self, root: str) -> list[str]:
        return sorted({id for id, _, (known,) in self._scan("root") if known == root})

    def _change(
        self, script: lua.Script, id: str, token: str | None, expected_version: int | None, *args: str | None
    ) -> int:
        """Run a script that returns whether it changed the machine, and which token and version stand now."""
        done, holder, version = self._run(script, id, token, expected_version, *args)
        reason = refusal(
            id,
            token=token,
            live_token=as_text(holder) or None,
            version=version,
            expected_version=expected_version,
        )
        if not done and reason:
            raise reason
        return int(version)


def _is_live(row: list[str | None], now: int) -> bool:
    return as_number(row[-1]) > now


def _lock_info(id: str, row: list[str | None]) -> LockInfo:
    owner, fence, acquired_at, expires_at = row
    locked, expires = as_time(acquired_at), as_time(expires_at)
    return LockInfo(id=id, owner=owner or "", fence=as_number(fence), locked_at=locked, expires_at=expires)


def _grant(data: str | None, version: str | int, fence: str | int, evicted: str | None = None) -> Grant:
    return Grant(None if data is None else EncodedData(data), int(version), int(fence), evicted)
