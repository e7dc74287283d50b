"""What every backend is: the verbs and, for each, its async twin."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import tenacity

from machine_memory import validation
from machine_memory.backends.steps import Seconds, waiting
from machine_memory.backends.verbs import MemoryVerbs
from machine_memory.exceptions import MachineMemoryError
from machine_memory.lease import KeepAlive, Lease, describe_owner, forget, held, hold
from machine_memory.records import LockInfo, Metadata, PurgeResult, Record


class BaseMachineMemory(MemoryVerbs):
    """A memory. Each async twin does as the verb it is named after."""

    async def aread(self, id: str) -> dict[str, Any] | None:
        """See ``read``."""
        return await self._hop(self.read, id)

    async def awrite(
        self, id: str, data: dict[str, Any], *, expected_version: int | None = None, metadata: Metadata | None = None
    ) -> int:
        """See ``write``."""
        return await self._hop(self.write, id, data, expected_version=expected_version, metadata=metadata)

    async def alock(self, id: str, *, ttl: Seconds | None = None) -> bool:
        """See ``lock``."""
        lease = await self._attempt_unless_cancelled(validation.machine_id(id), self._ttl(ttl), describe_owner())
        if lease is not None:
            hold(lease)
        return lease is not None

    async def aunlock(self, id: str) -> bool:
        """See ``unlock``. A task that is cancelled meanwhile has unlocked all the same."""
        id = validation.machine_id(id)
        lease = held(self, id)
        return await self._hop(self._unlock, id, None) if lease is None else await lease.arelease()

    @asynccontextmanager
    async def alease(
        self, id: str, *, ttl: Seconds | None = None, wait: Seconds = 0, keep_alive: bool = False
    ) -> AsyncIterator[Lease]:
        """See ``lease``."""
        id, seconds, attempt = validation.machine_id(id), self._ttl(ttl), self._attempt_unless_cancelled
        if patience := waiting(wait):
            attempt = tenacity.AsyncRetrying(**patience).wraps(attempt)
        lease = await self._hop(self._granted, id, await attempt(id, seconds, describe_owner()))
        hold(lease)
        keeper = KeepAlive(lease) if keep_alive else None
        try:
            yield lease
        finally:
            forget(lease)
            await asyncio.shield(self._leave(lease, keeper))

    async def arecord(self, id: str) -> Record | None:
        """See ``record``."""
        return await self._hop(self.record, id)

    async def acleanup(self, id: str) -> bool:
        """See ``cleanup``."""
        return await self._hop(self.cleanup, id)

    async def aforce_unlock(self, id: str, *, fence: int | None = None) -> bool:
        """See ``force_unlock``."""
        return await self._hop(self.force_unlock, id, fence=fence)

    async def aheld_locks(self) -> AsyncIterator[LockInfo]:
        """See ``held_locks``."""
        for info in await self._hop(lambda: list(self.held_locks())):
            yield info

    async def apurge_expired_locks(self, **options: Any) -> PurgeResult:
        """See ``purge_expired_locks``."""
        return await self._hop(self.purge_expired_locks, **options)

    async def apurge_machines(self, **options: Any) -> PurgeResult:
        """See ``purge_machines``."""
        return await self._hop(self.purge_machines, **options)

    async def achildren(self, id: str) -> list[str]:
        """See ``children``."""
        return await self._hop(self.children, id)

    async def atree(self, root: str) -> list[str]:
        """See ``tree``."""
        return await self._hop(self.tree, root)

    async def _leave(self, lease: Lease, keeper: KeepAlive | None) -> None:
        if keeper:
            await asyncio.to_thread(keeper.stop)
        if lease._may_be_live():
            await lease.arelease()

    async def _attempt_unless_cancelled(self, id: str, ttl: float, owner: str) -> Lease | None:
        attempt = asyncio.ensure_future(self._hop(self._attempt, id, ttl, owner))
        try:
            return await asyncio.shield(attempt)
        except asyncio.CancelledError:
            # The thread goes on, and may be granted a lease that nobody would know of.
            with suppress(MachineMemoryError):  # The caller is to see the cancellation.
                lease = await attempt
                if lease is not None:
                    await self._hop(lease._release)
            raise
