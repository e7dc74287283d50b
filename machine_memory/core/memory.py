"""A memory: the verbs and, for each, its async twin."""

from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any, ParamSpec, TypeVar, cast

from machine_memory import exceptions as errors
from machine_memory.core import lifecycle, records, retries, travel, validation
from machine_memory.core.blocks import BatchBlock
from machine_memory.core.claims import ClaimBlock
from machine_memory.core.contexts import describe_owner, held, hold
from machine_memory.core.failures import EXPIRED_LOCKS, MACHINES, Steps
from machine_memory.core.lease import Lease
from machine_memory.core.records import (
    KEEP,
    Change,
    LockInfo,
    Metadata,
    OnBatch,
    PurgeResult,
    Record,
    Shown,
    Stored,
    Summary,
    WakeAt,
    Written,
)
from machine_memory.core.store import Store
from machine_memory.core.twins import twin as _twin
from machine_memory.core.twins import twin_of_listing
from machine_memory.core.typed import Shape, Shaped, Upgrades
from machine_memory.core.validation import quoted

P = ParamSpec("P")
T = TypeVar("T")

Seconds = float | timedelta


class BaseMachineMemory(Shaped[Written, Stored, Shown]):
    """Remember the state of machines in a store, and let one context at a time advance each."""

    def __init__(
        self,
        store: Store,
        *,
        lock_ttl: Seconds = 120,
        read_attempts: int = 3,
        read_budget: float = 1.0,
        max_data_bytes: int = 2 * 1024 * 1024,
        max_data_depth: int = 30,
        require_lease: bool = False,
        telemetry_ids: bool = False,
    ) -> None:
        self.store = store
        self.steps = Steps(store, shows_ids=validation.option(telemetry_ids, "TELEMETRY_IDS", bool))
        try:
            self.lock_ttl = validation.ttl(lock_ttl, "LOCK_TTL")
        except errors.InvalidTTL as error:
            raise errors.InvalidConfiguration(str(error)) from None
        self.max_data_bytes = validation.option(max_data_bytes, "MAX_DATA_BYTES", int)
        self.max_data_depth = validation.option(max_data_depth, "MAX_DATA_DEPTH", int, most=validation.MAX_DEPTH)
        self.require_lease = validation.option(require_lease, "REQUIRE_LEASE", bool)
        self._reads = retries.Reads(store, read_attempts, read_budget)

    def typed(
        self, kind: type[T], *, shape: int | None = None, upgrades: Upgrades | None = None, shape_key: str = "shape"
    ) -> "BaseMachineMemory[T, T, T | None]":
        """Return this memory with states of a type: a TypedDict, dataclass, pydantic model or msgspec Struct.

        ``shape``: the number of its form, kept in the state under ``shape_key``; a state without has 1. ``upgrades``:
        what makes of the dict of a shape that of the next. Where a state does not fit: ``WrongShape``, ``NewerShape``.
        """
        return cast("BaseMachineMemory[T, T, T | None]", self._of(Shape(kind, shape, upgrades, shape_key)))

    # The four operations

    def read(self, id: str) -> Stored | None:
        """Return the state of a machine; ``None``: no state was ever written.

        Raises ``ReadError`` when the store failed, after retries where they can help, and ``CorruptRecord``.
        """
        id = validation.machine_id(id)
        return self._load(id, self._read("read", id, self.store.read, id))

    def write(
        self,
        id: str,
        data: Written,
        *,
        expected_version: int | None = None,
        metadata: Metadata | None = None,
        wake_at: WakeAt = KEEP,
    ) -> int:
        """Replace the state of a machine, in one attempt, and return its new version.

        ``wake_at``: when it is due for ``claim``; a timedelta counts from now by the store's clock, ``None`` is never.
        Raises, with nothing changed: ``LockLost`` where this context had a lease and has it no more, ``LockNotHeld``
        where somebody else has one, ``VersionConflict`` where the stored version is not ``expected_version`` (0: no
        state yet), ``WriteError`` when the store failed. ``UnknownOutcome``, a WriteError: the reply was lost.
        """
        id = validation.machine_id(id)
        return self._write(
            id, data, held(self, id), expected_version, metadata=metadata, wake_at=wake_at, release=False
        )

    def lock(self, id: str, *, ttl: Seconds | None = None) -> bool:
        """Take a lease of ``ttl`` seconds, in one attempt, without waiting.

        Returns whether this context has it now: ``False`` where anybody has one, this context included. Raises
        ``LockError`` when the store failed, ``LockInTransaction`` inside an open transaction.
        """
        lease = self._new_lease(id, ttl)
        try:
            if not lifecycle.take(lease):
                return False
            hold(lease)
        except BaseException:
            lifecycle.abandon(lease)
            raise
        return True

    def unlock(self, id: str) -> bool:
        """Give the lease back, if this context has it.

        Returns whether nobody has one now: ``False`` where somebody else does, and where the store failed twice (which
        is logged; the lease then ends by its ttl). Raises for an invalid id alone.
        """
        id = validation.machine_id(id)
        try:
            return lifecycle.unlock(self, id, held(self, id))
        except BaseException:
            if lease := held(self, id):
                lifecycle.abandon(lease)
            raise

    # The lease

    def lease(
        self, id: str, *, ttl: Seconds | None = None, wait: Seconds = 0, keep_alive: bool = False
    ) -> lifecycle.LeaseBlock[Written, Shown]:
        """Hold a machine for a block, with its state read in the same step; released when the block ends.

        ``wait``: seconds of further attempts. ``keep_alive``: renew in the background. Raises as ``lock``, and
        ``LockDenied`` where it cannot be had.
        """
        id, patience = validation.machine_id(id), retries.waiting(wait)
        return lifecycle.LeaseBlock(self, id, self._ttl(ttl), patience, keep_alive=keep_alive)

    def leases(
        self, ids: Iterable[str], *, ttl: Seconds | None = None, keep_alive: bool = False
    ) -> BatchBlock[Written, Shown]:
        """Hold all of these machines that can be had for a block, in one statement; ``denied`` are the others.

        Raises as ``lock``. ``commit`` of the batch writes and releases them in one statement.
        """
        return BatchBlock(self, validation.machine_ids(ids), self._ttl(ttl), keep_alive=keep_alive)

    def claim(
        self,
        limit: int = 100,
        *,
        status: str | None = None,
        ttl: Seconds | None = None,
        max_attempts: int = 5,
        expired: bool = False,
        keep_alive: bool = False,
    ) -> ClaimBlock[Written, Shown]:
        """Hold the machines that are due for a block, at most ``limit``, the oldest first; those in use are left alone.

        Each is due again when its lease ends, the next time after twice as long and so on, until a write ends that, or
        it was claimed ``max_attempts`` times. ``expired``: claim those whose lease has expired, as their worker died.
        Raises as ``lock``.
        """
        claim = validation.claim(limit, status, self._ttl(ttl), max_attempts, expired=expired)
        return ClaimBlock(self, claim, keep_alive=keep_alive)

    def attach(
        self, text: str, *, ttl: Seconds | None = None, keep_alive: bool = False
    ) -> lifecycle.LeaseBlock[Written, Shown]:
        """Go on, for a block, with the lease that ``Lease.detach`` made a text of: the same token, the same fence.

        Whoever has the text is the holder, as often as it is attached. ``ttl``: from now on, else it ends when it would
        have. Raises ``LockLost`` where it is over, ``InvalidLease``, and as ``Lease.renew``.
        """
        return lifecycle.LeaseBlock(self, **travel.attaching(text, ttl), keep_alive=keep_alive)

    # The rest of a memory

    def record(self, id: str) -> Record[Stored] | None:
        """Return all that is known of a machine's state; ``None``: no state was ever written. Raises as ``read``."""
        id = validation.machine_id(id)
        return self._load_record(self._read("record", id, self.store.record, id))

    def cleanup(self, id: str) -> bool:
        """Remove state and lease of a machine that is complete; of an absent one, too.

        Returns ``True``. Raises ``LockNotHeld``, ``LockLost``, ``WriteError`` and ``UnknownOutcome`` as ``write``.
        """
        id = validation.machine_id(id)
        lease = held(self, id)
        with self.steps("cleanup", id, errors.WriteError, "clean up") as step, lifecycle.ending(lease):
            if lease is not None:
                lease._check()
            self.store.remove(id, token=None if lease is None else lease._token)
            if lease is not None:
                lifecycle.end(lease, "was cleaned up")
            step.outcome = "removed"
        return True

    def holder(self, id: str) -> LockInfo | None:
        """Return who has the live lease of a machine; ``None``: nobody. Raises ``ReadError``."""
        return self._read("holder", id := validation.machine_id(id), self.store.holder, id)

    def force_unlock(self, id: str, *, fence: int | None = None) -> bool:
        """End anybody's lease and advance the fence, so that the evicted holder's writes are refused. For operators.

        ``fence``: end only the lease that has it, and none that was granted since. Returns whether there was a lease to
        end. Raises ``LockError`` when the store failed.
        """
        id = validation.machine_id(id)
        fence = validation.fence(fence)
        with self.steps("force_unlock", id, errors.LockError, "force-unlock") as step:
            released = self.store.force_release(id, fence=fence)
            step.outcome = "released" if released else "not_held"
            return released

    def held_locks(self) -> Iterator[LockInfo]:
        """Yield the live leases, by id, read in batches. Raises ``ReadError``."""
        read = self.store.held_locks
        return records.listed(lambda after, _: self._read("held_locks", MACHINES, read, after), self.store.batch)

    def find(
        self,
        *,
        status: str | None = None,
        prefix: str | None = None,
        idle: Seconds | None = None,
        exhausted: bool | None = None,
        after: str | None = None,
        limit: int | None = None,
    ) -> Iterator[Summary]:
        """Yield machines with state, without it, by id, read in batches. Raises ``ReadError``.

        ``prefix``: the beginning of their ids. ``idle``: seconds for which nobody has written them. ``exhausted``:
        whether they were claimed in vain, for the last time. ``after``: the id that they come after. ``limit``: how
        many at most. By ``idle`` alone a database goes through its machines by their ids, as no index serves it; Redis
        looks at every machine for each batch.
        """
        find = partial(self.store.find, validation.criteria(status, prefix, idle, exhausted))
        after = "" if after is None else validation.machine_id(after, "after")
        limit = None if limit is None else validation.option(limit, "limit", int)
        return records.listed(partial(self._read, "find", MACHINES, find), self.store.batch, after, limit)

    def purge_expired_locks(
        self, *, older_than: Seconds = 0, batch_size: int = 1000, dry_run: bool = False, on_batch: OnBatch | None = None
    ) -> PurgeResult:
        """End the leases that expired ``older_than`` seconds ago, and delete machines that were only ever locked.

        Leases end by themselves: this tidies up. Never a live one; rows in use are passed over. ``on_batch`` is told
        after each batch what was done until then. Returns the counts. Raises ``LockError`` when the store failed; what
        was purged until then stays so, and the rest can be purged again.
        """
        seconds = validation.ttl(older_than, "older_than", least=0, most=validation.MAX_AGE)
        size = validation.option(batch_size, "batch_size", int, most=validation.MAX_BATCH)
        with self.steps("purge_expired_locks", EXPIRED_LOCKS, errors.LockError, "purge", yields=True) as step:
            batches = self.store.purge_locks(older_than=seconds, batch_size=size, dry_run=dry_run)
            total = records.summed(batches, on_batch)
            step.outcome = "purged"
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
        """Delete machines of a status, unwritten for ``idle`` seconds, that nobody holds and that have no timer.

        ``tree``: only those whose whole tree may go. Otherwise as ``purge_expired_locks``; raises ``WriteError``.
        """
        retention = records.Retention(
            status=validation.label(status, "status"),
            idle=validation.ttl(idle, "idle", least=0, most=validation.MAX_AGE),
            tree=tree,
        )
        size = validation.option(batch_size, "batch_size", int, most=validation.MAX_BATCH)
        with self.steps("purge_machines", MACHINES, errors.WriteError, "purge", yields=True) as step:
            total = records.summed(self.store.purge_machines(retention, batch_size=size, dry_run=dry_run), on_batch)
            step.outcome = "purged"
            return total

    def children(self, id: str) -> list[str]:
        """Return the ids of the machines that ``id`` started, sorted. Raises ``ReadError``."""
        return self._read("children", id := validation.machine_id(id), self.store.children, id)

    def tree(self, root: str) -> list[str]:
        """Return the ids of all machines whose root is ``root``, itself included, sorted. Raises ``ReadError``."""
        return self._read("tree", root := validation.machine_id(root, "root"), self.store.tree, root)

    # The async twins

    aread, awrite, arecord, aholder = _twin(read), _twin(write), _twin(record), _twin(holder)
    acleanup, aforce_unlock = _twin(cleanup), _twin(force_unlock)
    apurge_expired_locks, apurge_machines = _twin(purge_expired_locks), _twin(purge_machines)
    achildren, atree = _twin(children), _twin(tree)
    aheld_locks, afind = twin_of_listing(held_locks), twin_of_listing(find)

    async def alock(self, id: str, *, ttl: Seconds | None = None) -> bool:
        """See ``lock``. The task that awaits it is the holder: prefer ``alease`` where others wrap it in a task."""
        lease = self._new_lease(id, ttl)
        try:
            if not await self.steps.hop(lifecycle.take, lease):
                return False
            hold(lease)
        except BaseException:
            lifecycle.abandon(lease)
            raise
        return True

    async def aunlock(self, id: str) -> bool:
        """See ``unlock``. A task that is cancelled meanwhile has unlocked all the same."""
        id = validation.machine_id(id)
        lease = held(self, id)
        return await self.steps.hop(lifecycle.unlock, self, id, None) if lease is None else await self._arelease(lease)

    def alease(
        self, id: str, *, ttl: Seconds | None = None, wait: Seconds = 0, keep_alive: bool = False
    ) -> lifecycle.AsyncLeaseBlock[Written, Shown]:
        """See ``lease``."""
        id, patience = validation.machine_id(id), retries.waiting(wait)
        return lifecycle.AsyncLeaseBlock(self, id, self._ttl(ttl), patience, keep_alive=keep_alive)

    aleases, aclaim = leases, claim

    def aattach(
        self, text: str, *, ttl: Seconds | None = None, keep_alive: bool = False
    ) -> lifecycle.AsyncLeaseBlock[Written, Shown]:
        """See ``attach``."""
        return lifecycle.AsyncLeaseBlock(self, **travel.attaching(text, ttl), keep_alive=keep_alive)

    # What they share

    def _write(self, id: str, data: Any, lease: Lease | None, seen: int | None, *, release: bool, **how: Any) -> int:
        step = self.steps("commit" if release else "write", id, errors.WriteError, "write")
        with step, lifecycle.ending(lease if release else None):
            asked_at = self.store.monotonic()
            change = self._change(id, data, lease, seen, release=release, **how)
            if lease is not None:
                step.note(fence=lease.fence)
                lease._check()
            elif self.require_lease:
                raise errors.LockNotHeld(f"Writing {quoted(id)} needs a lease here (REQUIRE_LEASE). Lock it first.")
            version = self.store.write(change)
            if lease is not None:
                lifecycle.wrote(lease, change.data, version, asked_at, release=release)
            step.wrote(change.data, version)
        return version

    def _change(
        self, id: str, data: Any, lease: Lease | None, seen: int | None, *, release: bool, metadata: Any, wake_at: Any
    ) -> Change:
        data = self._dump(data)
        text = validation.state(data, max_bytes=self.max_data_bytes, max_depth=self.max_data_depth)
        labels = validation.metadata(metadata, data)
        version, wakes = validation.expected_version(seen), validation.wake_at(wake_at)
        return Change(
            id=id,
            data=text,
            metadata=labels,
            ancestor=labels.parent,
            token=None if lease is None else lease._token,
            expected_version=version,
            release=release,
            extend=lease.ttl if lease is not None and lease._keep_alive and not release else None,
            wake_at=wakes if lease is None else lease._wakes(wakes),
        )

    _renew = staticmethod(lifecycle.renew)
    _release = staticmethod(lifecycle.release)
    _arelease = staticmethod(lifecycle.arelease)
    _detach = staticmethod(travel.detach)

    def _read(self, name: str, id: str, read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        with self.steps(name, id, errors.ReadError, "read") as step:
            found = self._reads(step, read, *args, **kwargs)
            step.outcome = "miss" if found is None else "hit"
            return found

    def _new_lease(self, id: str, ttl: Seconds | None) -> Lease:
        return Lease(self, validation.machine_id(id), self._ttl(ttl), describe_owner(), shows_data=False)

    def _ttl(self, ttl: Seconds | None) -> float:
        return self.lock_ttl if ttl is None else validation.ttl(ttl)
