"""The public verbs, in their synchronous form."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from machine_memory import exceptions as errors
from machine_memory import validation
from machine_memory.backends.step import ending
from machine_memory.backends.steps import MemorySteps, Seconds, as_state, token_of, waiting
from machine_memory.contexts import held, hold
from machine_memory.lease import Lease, LeaseBlock
from machine_memory.records import LockInfo, Metadata, PurgeResult, Record, Retention

OnBatch = Callable[[PurgeResult], None]


class MemoryVerbs(MemorySteps):
    """Remember the state of machines, and let one context at a time advance each."""

    # The four operations

    def read(self, id: str) -> dict[str, Any] | None:
        """Return the state of a machine; ``None``: no state was ever written.

        Raises ``ReadError`` when the store failed, after retries where they can help, and ``CorruptRecord``.
        """
        id = validation.machine_id(id)
        return as_state(id, self._read_retrying("read", id, self._read, id))

    def write(
        self, id: str, data: dict[str, Any], *, expected_version: int | None = None, metadata: Metadata | None = None
    ) -> int:
        """Replace the state of a machine, in one attempt, and return its new version.

        Raises, with nothing changed: ``LockLost`` where this context had a lease and has it no more, ``LockNotHeld``
        where somebody else has one, ``VersionConflict`` where the stored version is not ``expected_version`` (0: no
        state yet), ``WriteError`` when the store failed. ``UnknownOutcome``, a WriteError: the reply was lost.
        """
        id = validation.machine_id(id)
        return self._write_checked(id, data, lease=held(self, id), expected_version=expected_version, metadata=metadata)

    def lock(self, id: str, *, ttl: Seconds | None = None) -> bool:
        """Take a lease of ``ttl`` seconds, in one attempt, without waiting.

        Returns whether this context has it now: ``False`` where anybody has one, this context included. Raises
        ``LockError`` when the store failed, ``LockInTransaction`` inside an open transaction.
        """
        lease = Lease(self, validation.machine_id(id), self._ttl(ttl), shows_data=False)
        try:
            if not self._take(lease):
                return False
            hold(lease)
        except BaseException:
            lease._abandon()
            raise
        return True

    def unlock(self, id: str) -> bool:
        """Give the lease back, if this context has it.

        Returns whether nobody has one now: ``False`` where somebody else does, and where the store failed twice (which
        is logged; the lease then ends by its ttl). Raises for an invalid id alone.
        """
        try:
            return self._unlock(validation.machine_id(id), held(self, id))
        except errors.InvalidMachineId:
            raise
        except BaseException:
            if lease := held(self, id):
                lease._abandon()
            raise

    # The lease

    def lease(
        self, id: str, *, ttl: Seconds | None = None, wait: Seconds = 0, keep_alive: bool = False
    ) -> AbstractContextManager[Lease]:
        """Hold a machine for a block, with its state read in the same step; released when the block ends.

        ``wait``: seconds of further attempts. ``keep_alive``: renew in the background. Raises as ``lock``, and
        ``LockDenied`` where it cannot be had.
        """
        return LeaseBlock(self, validation.machine_id(id), self._ttl(ttl), waiting(wait), keep_alive=keep_alive)

    # The rest of a memory

    def record(self, id: str) -> Record | None:
        """Return all that is known of a machine's state; ``None``: no state was ever written. Raises as ``read``."""
        id = validation.machine_id(id)
        record = self._read_retrying("record", id, self._record, id)
        if record is not None:
            as_state(id, record.data)
        return record

    def cleanup(self, id: str) -> bool:
        """Remove state and lease of a machine that is complete; of an absent one, too.

        Returns ``True``. Raises ``LockNotHeld``, ``LockLost``, ``WriteError`` and ``UnknownOutcome`` as ``write``.
        """
        id = validation.machine_id(id)
        lease = held(self, id)
        with self._operation("cleanup", id, errors.WriteError, "clean up") as operation, ending(lease):
            if lease is not None:
                lease._check()
            self._remove(id, token=token_of(lease))
            if lease is not None:
                lease._end("was cleaned up")
            operation.outcome = "removed"
        return True

    def holder(self, id: str) -> LockInfo | None:
        """Return who has the live lease of a machine; ``None``: nobody. Raises ``ReadError``."""
        id = validation.machine_id(id)
        return self._read_retrying("holder", id, self._holder, id)

    def force_unlock(self, id: str, *, fence: int | None = None) -> bool:
        """End anybody's lease and advance the fence, so that the evicted holder's writes are refused. For operators.

        ``fence``: end only the lease that has it, and none that was granted since. Returns whether there was a lease to
        end. Raises ``LockError`` when the store failed.
        """
        id = validation.machine_id(id)
        fence = validation.fence(fence)
        with self._operation("force_unlock", id, errors.LockError, "force-unlock") as operation:
            released = self._force_release(id, fence=fence)
            operation.outcome = "released" if released else "not_held"
            return released

    def held_locks(self) -> Iterator[LockInfo]:
        """Yield the live leases, by id, read in batches. Raises ``ReadError``."""
        batch = self._read_retrying("held_locks", "", self._held_locks, "")
        yield from batch
        while len(batch) >= self.batch:
            after = batch[-1].id
            batch = self._read_retrying("held_locks", after, self._held_locks, after)
            yield from batch

    def purge_expired_locks(
        self,
        *,
        older_than: Seconds = 0,
        batch_size: int = 1000,
        dry_run: bool = False,
        on_batch: OnBatch | None = None,
    ) -> PurgeResult:
        """End the leases that expired ``older_than`` seconds ago, and delete machines that were only ever locked.

        Leases end by themselves: this tidies up. Never a live one; rows in use are passed over. ``on_batch`` is told
        after each batch what was done until then. Returns the counts. Raises ``LockError`` when the store failed; what
        was purged until then stays so, and the rest can be purged again.
        """
        seconds = validation.ttl(older_than, "older_than", least=0, most=validation.MAX_AGE)
        size = validation.option(batch_size, "batch_size", int, most=validation.MAX_BATCH)
        with self._operation(
            "purge_expired_locks", "expired locks", errors.LockError, "purge", yields=True
        ) as operation:
            total = _sum(self._purge_locks(older_than=seconds, batch_size=size, dry_run=dry_run), on_batch)
            operation.outcome = "purged"
            return total

    def purge_machines(
        self,
        *,
        status: str,
        idle: Seconds,
        tree: bool = False,
        batch_size: int = 1000,
        dry_run: bool = False,
        on_batch: OnBatch | None = None,
    ) -> PurgeResult:
        """Delete machines of a status that were written last ``idle`` seconds ago or earlier, and that nobody holds.

        ``tree``: only those whose whole tree may go. Otherwise as ``purge_expired_locks``; raises ``WriteError``.
        """
        retention = Retention(
            status=validation.label(status, "status"),
            idle=validation.ttl(idle, "idle", least=0, most=validation.MAX_AGE),
            tree=tree,
        )
        size = validation.option(batch_size, "batch_size", int, most=validation.MAX_BATCH)
        with self._operation("purge_machines", "machines", errors.WriteError, "purge", yields=True) as operation:
            total = _sum(self._purge_machines(retention, batch_size=size, dry_run=dry_run), on_batch)
            operation.outcome = "purged"
            return total

    def children(self, id: str) -> list[str]:
        """Return the ids of the machines that ``id`` started, sorted. Raises ``ReadError``."""
        id = validation.machine_id(id)
        return self._read_retrying("children", id, self._children, id)

    def tree(self, root: str) -> list[str]:
        """Return the ids of all machines whose root is ``root``, itself included, sorted. Raises ``ReadError``."""
        root = validation.machine_id(root, "root")
        return self._read_retrying("tree", root, self._tree, root)


def _sum(batches: Iterator[PurgeResult], on_batch: OnBatch | None) -> PurgeResult:
    total = PurgeResult()
    for result in batches:
        total += result
        if on_batch:
            on_batch(total)
    return total
