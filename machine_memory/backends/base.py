"""What every backend is: the verbs and, for each, its async twin."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

from machine_memory import validation
from machine_memory.backends.steps import Seconds, waiting
from machine_memory.backends.verbs import MemoryVerbs
from machine_memory.contexts import held, hold
from machine_memory.lease import AsyncLeaseBlock, Lease
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
        """See ``lock``. The task that awaits it is the holder: prefer ``alease`` where others wrap it in a task."""
        lease = Lease(self, validation.machine_id(id), self._ttl(ttl), shows_data=False)
        try:
            if not await self._hop(self._take, lease):
                return False
            hold(lease)
        except BaseException:
            lease._abandon()
            raise
        return True

    async def aunlock(self, id: str) -> bool:
        """See ``unlock``. A task that is cancelled meanwhile has unlocked all the same."""
        id = validation.machine_id(id)
        lease = held(self, id)
        return await self._hop(self._unlock, id, None) if lease is None else await lease.arelease()

    def alease(
        self, id: str, *, ttl: Seconds | None = None, wait: Seconds = 0, keep_alive: bool = False
    ) -> AbstractAsyncContextManager[Lease]:
        """See ``lease``."""
        return AsyncLeaseBlock(self, validation.machine_id(id), self._ttl(ttl), waiting(wait), keep_alive=keep_alive)

    async def aholder(self, id: str) -> LockInfo | None:
        """See ``holder``."""
        return await self._hop(self.holder, id)

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
