"""The lease: what a successful lock grants, which context holds it, and how it is kept alive."""

import asyncio
import logging
import os
import socket
import threading
import time
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from machine_memory import telemetry
from machine_memory.encoding import decode
from machine_memory.exceptions import LockLost, MachineMemoryError, StoreError
from machine_memory.records import EncodedData, Grant, Metadata
from machine_memory.validation import MAX_LABEL_LENGTH, quoted

if TYPE_CHECKING:
    from machine_memory.backends.steps import MemorySteps

logger = logging.getLogger(__name__)

# A thread begins with an empty context, a task with a copy of its parent's: so the thread or task that locked is the
# holder, and tasks that it spawns. The mapping is replaced, never changed, or a task would change its parent's.
_held: ContextVar[Mapping[tuple["MemorySteps", str], "Lease"]] = ContextVar("machine_memory_held")


class Lease:
    """A live lease of a machine. Whoever has the object is the holder, in whatever thread or task."""

    def __init__(
        self, memory: "MemorySteps", id: str, *, token: str, owner: str, ttl: float, grant: Grant, asked_at: float
    ) -> None:
        self._memory = memory
        self._token = token
        self._over: str | None = None
        """Why this lease is of no use any more."""
        self._unsettled = False
        """Whether a rollback of the caller's may undo what was done last: then the store alone knows how things are."""
        self._ending = threading.Lock()
        """Held while the lease is given back, so that a renewal does not meet a lease that is half gone."""
        self.id = id
        self.owner = owner
        self.fence = grant.fence
        self.version = grant.version
        self._data = grant.data
        self._granted_at = time.monotonic()
        self._extend(ttl, asked_at)
        telemetry.instruments.granted(self)

    def __repr__(self) -> str:
        return f"<Lease of {quoted(self.id)}, fence {self.fence}, {self.remaining:.3f} s left>"

    @property
    def data(self) -> Any:
        """The state as this lease last saw it; ``None``: no state yet. It is yours to change."""
        if isinstance(self._data, EncodedData):
            self._data = decode(self._data)
        return self._data

    @property
    def ttl(self) -> float:
        return self._ttl

    @property
    def remaining(self) -> float:
        """Seconds left, counted from before the store was asked: never more than it would say."""
        return max(0.0, self._ends_at - time.monotonic())

    def write(self, data: dict[str, Any], *, metadata: Metadata | None = None) -> int:
        """Write and stay the holder.

        Returns the new version. Raises as the memory's ``write``, with the version that this lease has seen.
        """
        return self._write(data, metadata)

    def commit(self, data: dict[str, Any], *, metadata: Metadata | None = None) -> int:
        """Write and release in one atomic step.

        Returns the new version. Raises as ``write``, and the lease then stays as it was.
        """
        version = self._commit(data, metadata)
        forget(self)
        return version

    def renew(self, ttl: float | timedelta | None = None) -> None:
        """Extend the lease to ``ttl`` seconds from now, by default its own ttl.

        Raises ``LockLost`` where it is live no more: it is never resurrected. A failing store: ``LockError``.
        """
        self._memory._renew_lease(self, ttl)

    def release(self) -> bool:
        """Release, as the memory's ``unlock`` does."""
        released = self._release()
        self._forget_if_over()
        return released

    async def awrite(self, data: dict[str, Any], *, metadata: Metadata | None = None) -> int:
        """See ``write``."""
        return await self._memory._hop(self.write, data, metadata=metadata)

    async def acommit(self, data: dict[str, Any], *, metadata: Metadata | None = None) -> int:
        """See ``commit``."""
        version = await self._memory._hop(self._commit, data, metadata)
        forget(self)
        return version

    async def arenew(self, ttl: float | timedelta | None = None) -> None:
        """See ``renew``."""
        await self._memory._hop(self.renew, ttl)

    async def arelease(self) -> bool:
        """See ``release``. A task that is cancelled meanwhile has released all the same."""
        released = await asyncio.shield(self._memory._hop(self._release))
        self._forget_if_over()
        return released

    def _commit(self, data: dict[str, Any], metadata: Metadata | None) -> int:
        with self._ending:
            version = self._write(data, metadata, release=True)
            self._end("was committed")
            return version

    def _write(self, data: dict[str, Any], metadata: Metadata | None, *, release: bool = False) -> int:
        expected_version = None if self._unsettled else self.version
        return self._memory._write_checked(
            self.id, data, lease=self, expected_version=expected_version, metadata=metadata, release=release
        )

    def _release(self) -> bool:
        with self._ending:
            return self._memory._unlock(self.id, self)

    def _end(self, reason: str) -> None:
        if self._over is None:
            telemetry.held(self._memory, time.monotonic() - self._granted_at)
        self._over = self._over or reason
        self._unsettled = self._memory._in_transaction()

    def _may_be_live(self) -> bool:
        return self._over is None or self._unsettled

    def _is_live(self) -> bool:
        return self._over is None and self.remaining > 0

    def _forget_if_over(self) -> None:
        if self._over:
            forget(self)

    def _extend(self, ttl: float, asked_at: float) -> None:
        self._ttl = ttl
        self._ends_at = asked_at + ttl

    def _wrote(self, data: EncodedData, version: int) -> None:
        self._data, self.version, self._over = data, version, None
        self._unsettled = self._memory._in_transaction()

    def _lose(self, reason: str) -> None:
        self._over, self._unsettled = reason, False

    def _check(self) -> None:
        if not self._may_be_live():
            raise LockLost(f"The lease of {quoted(self.id)} {self._over}. Lock again, and start from the stored state.")


def held(memory: "MemorySteps", id: str) -> Lease | None:
    """Return the lease that this context took of ``id`` and has not given back, be it live or lost."""
    return _held.get({}).get((memory, id))


def hold(lease: Lease) -> None:
    _held.set({**_held.get({}), (lease._memory, lease.id): lease})


def forget(lease: Lease) -> None:
    leases = _held.get({})
    key = (lease._memory, lease.id)
    if leases.get(key) is lease:
        _held.set({other: leases[other] for other in leases if other != key})


@cache
def _host() -> str:
    return socket.gethostname()


def describe_owner() -> str:
    """Describe this context to people: host, process, and thread or task."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    name = task.get_name() if task else threading.current_thread().name
    owner = f"{_host()}:{os.getpid()}:{name}".replace("\0", "")[:MAX_LABEL_LENGTH]
    return owner if owner.isascii() else owner.encode("utf-8", "replace").decode()


class KeepAlive:
    """Renews a lease at a third of its ttl until stopped; when that fails, the lease is lost.

    A thread for tasks, too: it goes on while their event loop is busy.
    """

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="machine-memory-keep-alive", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stopped.wait(self._lease.ttl / 3):
                with self._lease._ending:
                    if self._lease._over:
                        break
                    self._renew()
        except Exception as error:
            self._lease._lose(f"could not be kept alive ({type(error).__name__})")
            # Of a failing store the kind is enough, and what its driver says may quote rows.
            unforeseen = not isinstance(error, MachineMemoryError)
            logger.warning(
                "lost the lease of %s: it could not be kept alive (%s)",
                self._lease._memory._logged(self._lease.id),
                type(error.__cause__ or error).__name__,
                exc_info=unforeseen,
            )
        finally:
            self._lease._memory._close()

    def _renew(self) -> None:
        try:
            self._lease.renew()
        except StoreError:
            # The store may be back in time for the next beat; past its expiry nobody may rely on the lease.
            if not self._lease.remaining:
                raise
