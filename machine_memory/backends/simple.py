"""Memory in this process: for development and tests."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.checks import CheckMessage

from machine_memory.backends.base import BaseMachineMemory
from machine_memory.backends.primitives import refusal
from machine_memory.backends.steps import P, T
from machine_memory.encoding import decode
from machine_memory.problems import problem
from machine_memory.records import Change, EncodedData, Grant, LockInfo, Metadata, PurgeResult, Record, Retention

if TYPE_CHECKING:
    from machine_memory.lease import Lease

_EPOCH = time.time() - time.monotonic()


def steady_time() -> float:
    """Return seconds since 1970 that never step backwards while the process lives."""
    return _EPOCH + time.monotonic()


@dataclass(slots=True, kw_only=True)
class _Lease:
    token: str
    owner: str
    trace: str | None
    locked_at: float
    expires_at: float


@dataclass(slots=True, kw_only=True)
class _Machine:
    fence: int
    created_at: float
    data: str = "null"
    version: int = 0
    metadata: Metadata = field(default_factory=Metadata)
    root: str = ""
    written_at: float = 0.0
    lease: _Lease | None = None


class SimpleMachineMemory(BaseMachineMemory):
    """Keep machines in this object alone; ``clock`` tells its time in seconds, and tests may move it."""

    backend = "simple"

    def __init__(self, *, clock: Callable[[], float] = steady_time, **options: Any) -> None:
        super().__init__(**options)
        self._clock = clock
        self._mutex = threading.RLock()  # A signal handler may ask while its own thread is within.
        self._machines: dict[str, _Machine] = {}
        self._last_fence = 0
        """The highest fence of the machines that were removed; later ones of the same id go on from there."""

    def check(self, *, deploy: bool) -> Iterator[CheckMessage]:
        """Yield that this is no place for machines in production."""
        if deploy and not settings.DEBUG:  # A test run has DEBUG off as well, but deploys nothing.
            yield problem("W301")

    async def _hop(self, verb: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        await asyncio.sleep(0)  # Where others can be cancelled, so can this.
        return verb(*args, **kwargs)  # Nothing here waits, so no thread is needed.

    def _read(self, id: str) -> object:
        with self._mutex:
            machine = self._machines.get(id)
        return decode(machine.data) if machine else None

    def _record(self, id: str) -> Record | None:
        with self._mutex:
            machine = self._machines.get(id)
            if machine is None or not machine.version:
                return None
            data: Any = decode(machine.data)
            return Record(
                id=id,
                data=data,
                version=machine.version,
                fence=machine.fence,
                status=machine.metadata.status,
                source=machine.metadata.source,
                initiator=machine.metadata.initiator,
                parent=machine.metadata.parent,
                root=machine.root,
                created_at=_utc(machine.created_at),
                written_at=_utc(machine.written_at),
            )

    def _write(self, change: Change) -> int:
        with self._mutex:
            machine = self._machines.get(change.id)
            self._refuse_unless_open(change.id, machine, change.token, change.expected_version)
            machine = machine or self._add(change.id)
            now, metadata = self._clock(), _merged(machine, change.metadata)
            root = machine.root if machine.version else self._root(change.id, change.metadata.parent)
            # From here on no call is made, so that no signal can leave half of it.
            machine.metadata, machine.root, machine.written_at = metadata, root, now
            machine.data, machine.version = change.data, machine.version + 1
            if change.release:
                machine.lease = None
            elif change.extend is not None and machine.lease is not None:
                machine.lease.expires_at = now + change.extend
            return machine.version

    def _acquire(self, id: str, *, token: str, owner: str, ttl: float, trace: str | None) -> Grant | None:
        with self._mutex:
            machine = self._machines.get(id) or self._add(id)
            if self._live_token(machine):
                return None
            evicted = (machine.lease.trace or "") if machine.lease else None
            now = self._clock()
            machine.lease = _Lease(token=token, owner=owner, trace=trace, locked_at=now, expires_at=now + ttl)
            machine.fence = self._next_fence(machine)
            text = EncodedData(machine.data) if machine.version else None
            return Grant(text, machine.version, machine.fence, evicted)

    def _holder_trace(self, id: str) -> str | None:
        with self._mutex:
            machine = self._machines.get(id)
            return machine.lease.trace if machine and machine.lease and self._live_token(machine) else None

    def _holder(self, id: str) -> LockInfo | None:
        with self._mutex:
            machine = self._machines.get(id)
            if machine is None or machine.lease is None or not self._live_token(machine):
                return None
            return _lock_info(id, machine, machine.lease)

    def _renew_each(self, leases: "Collection[Lease]") -> tuple[set[str], set[str]]:
        renewed = {lease._token for lease in leases if self._renew(lease.id, token=lease._token, ttl=lease.ttl)}
        return renewed, {lease._token for lease in leases} - renewed

    def _release_each(self, leases: "Collection[Lease]") -> set[str]:
        for lease in leases:
            self._release(lease.id, token=lease._token)
        return {lease._token for lease in leases}

    def _renew(self, id: str, *, token: str, ttl: float) -> bool:
        with self._mutex:
            machine = self._machines.get(id)
            if machine is None or machine.lease is None or self._live_token(machine) != token:
                return False
            machine.lease.expires_at = self._clock() + ttl
            return True

    def _release(self, id: str, *, token: str | None) -> bool:
        with self._mutex:
            machine = self._machines.get(id)
            if machine and machine.lease and machine.lease.token == token:
                machine.lease = None
            return self._live_token(machine) is None

    def _force_release(self, id: str, *, fence: int | None) -> bool:
        with self._mutex:
            machine = self._machines.get(id)
            if machine is None or machine.lease is None or fence not in (None, machine.fence):
                return False
            machine.lease = None
            machine.fence = self._next_fence(machine)
            return True

    def _remove(self, id: str, *, token: str | None) -> None:
        with self._mutex:
            machine = self._machines.get(id)
            if machine is None:
                return
            self._refuse_unless_open(id, machine, token)
            self._delete(id)

    def _held_locks(self, after: str) -> list[LockInfo]:
        with self._mutex:
            return sorted(
                (
                    _lock_info(id, machine, machine.lease)
                    for id, machine in self._machines.items()
                    if id > after and machine.lease and self._live_token(machine)
                ),
                key=lambda info: info.id,
            )

    def _purge_locks(self, *, older_than: float, batch_size: int, dry_run: bool) -> Iterator[PurgeResult]:
        with self._mutex:
            latest = self._clock() - older_than
            expired = {
                id: machine
                for id, machine in self._machines.items()
                if machine.lease and machine.lease.expires_at <= latest
            }
            unwritten = [id for id, machine in expired.items() if not machine.version]
            if not dry_run:
                for machine in expired.values():
                    machine.lease = None
                for id in unwritten:
                    self._delete(id)
        yield PurgeResult(cleared=len(expired) - len(unwritten), deleted=len(unwritten))

    def _purge_machines(self, retention: Retention, *, batch_size: int, dry_run: bool) -> Iterator[PurgeResult]:
        with self._mutex:
            latest = self._clock() - retention.idle
            going = {
                id: machine
                for id, machine in self._machines.items()
                if machine.version and machine.metadata.status == retention.status
                if machine.written_at <= latest and not self._live_token(machine)
            }
            if retention.tree:
                sizes = Counter(machine.root for machine in self._machines.values())
                gone = Counter(machine.root for machine in going.values())
                going = {id: machine for id, machine in going.items() if gone[machine.root] == sizes[machine.root]}
            if not dry_run:
                for id in going:
                    self._delete(id)
        size = sum(len(machine.data.encode()) for machine in going.values()) if dry_run else 0
        yield PurgeResult(deleted=len(going), bytes=size)

    def _children(self, id: str) -> list[str]:
        with self._mutex:
            return sorted(child for child, machine in self._machines.items() if machine.metadata.parent == id)

    def _tree(self, root: str) -> list[str]:
        with self._mutex:
            return sorted(id for id, machine in self._machines.items() if machine.root == root)

    # Only called while the mutex is held.

    def _live_token(self, machine: _Machine | None) -> str | None:
        if machine is None or machine.lease is None or machine.lease.expires_at <= self._clock():
            return None
        return machine.lease.token

    def _refuse_unless_open(
        self, id: str, machine: _Machine | None, token: str | None, expected_version: int | None = None
    ) -> None:
        version = machine.version if machine else 0
        live_token = self._live_token(machine)
        reason = refusal(id, token=token, live_token=live_token, version=version, expected_version=expected_version)
        if reason is not None:
            raise reason

    def _add(self, id: str) -> _Machine:
        now = self._clock()
        fence = max(self._last_fence + 1, int(now * 1_000_000))
        return self._machines.setdefault(id, _Machine(fence=fence, created_at=now))

    def _next_fence(self, machine: _Machine) -> int:
        return max(machine.fence + 1, int(self._clock() * 1_000_000))

    def _delete(self, id: str) -> None:
        self._last_fence = max(self._last_fence, self._machines.pop(id).fence)

    def _root(self, id: str, parent: str | None) -> str:
        if parent is None:
            return id
        known = self._machines.get(parent)
        return known.root if known and known.root else parent


def _merged(machine: _Machine, new: Metadata) -> Metadata:
    old = machine.metadata
    return Metadata(
        status=new.status or old.status,
        source=new.source or old.source,
        initiator=new.initiator or old.initiator,
        parent=old.parent if machine.version else new.parent,
    )


def _lock_info(id: str, machine: _Machine, lease: _Lease) -> LockInfo:
    locked_at, expires_at = _utc(lease.locked_at), _utc(lease.expires_at)
    return LockInfo(id=id, owner=lease.owner, fence=machine.fence, locked_at=locked_at, expires_at=expires_at)


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
