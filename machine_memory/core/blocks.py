"""The block that holds many machines, and gives them back whatever the way out."""

from typing import Generic

from machine_memory.core.batch import Batch, Changing
from machine_memory.core.contexts import describe_owner, forget
from machine_memory.core.lease import Lease
from machine_memory.core.records import Shown, Written


class BatchBlock(Generic[Written, Shown]):
    """Holds a batch from its beginning to its end."""

    _batch: Batch[Written, Shown] | None = None

    def __init__(self, memory: Changing, ids: list[str], ttl: float, *, keep_alive: bool) -> None:
        self._memory, self._ids, self._ttl, self._keep_alive = memory, ids, ttl, keep_alive

    def __del__(self) -> None:
        # What an exception kept even the first line of the exit from giving back.
        if self._batch is not None:
            self._batch._abandon()

    def __enter__(self) -> Batch[Written, Shown]:
        batch = self._new_batch()
        try:
            batch._take()
            batch._begin()
        except BaseException:
            self.__exit__()
            batch._abandon()
            raise
        return batch

    def __exit__(self, *error: object) -> None:
        batch = self._batch
        if batch is None:
            return
        try:
            batch._leave()
        except BaseException:
            batch._abandon()
            raise
        self._batch = None

    async def __aenter__(self) -> Batch[Written, Shown]:
        batch = self._new_batch()
        try:
            await self._memory.steps.hop(batch._take)
            try:
                batch._begin()
            except RuntimeError:  # There is no thread to keep them alive, nor to give them back.
                await self.__aexit__()
                raise
        except BaseException:
            batch._abandon()
            raise
        return batch

    async def __aexit__(self, *error: object) -> None:
        batch = self._batch
        if batch is None:
            return
        try:
            await self._memory.steps.hop(batch._leave)
        except BaseException:
            batch._abandon()
            raise
        finally:
            forget(*batch)
        self._batch = None

    def _new_batch(self) -> Batch[Written, Shown]:
        owner = describe_owner()
        leases = {id: Lease(self._memory, id, self._ttl, owner, keep_alive=self._keep_alive) for id in self._ids}
        self._batch = Batch(self._memory, leases)
        return self._batch
