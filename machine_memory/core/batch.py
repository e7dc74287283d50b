"""Many machines at once: leases that are taken, written and given back together, in one statement each."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any, Generic, Protocol

from machine_memory import exceptions as errors
from machine_memory.core import lifecycle, validation
from machine_memory.core.contexts import forget, hold
from machine_memory.core.failures import MACHINES, Step, is_taken_here
from machine_memory.core.keeper import keeper
from machine_memory.core.lease import Lease, Memory
from machine_memory.core.pieces import by_size, pieces, with_ancestors
from machine_memory.core.records import KEEP, Change, Grant, Metadata, Shown, WakeAt, Written
from machine_memory.core.store import lock_lost
from machine_memory.core.validation import quoted

logger = logging.getLogger("machine_memory")


class Changing(Memory, Protocol):
    """What a batch needs of its memory."""

    def _change(
        self,
        id: str,
        data: Any,
        lease: Lease,
        seen: int | None,
        *,
        metadata: Metadata | None,
        wake_at: WakeAt,
        release: bool,
    ) -> Change: ...


class Batch(Generic[Written, Shown]):
    """The leases of all machines that could be had, in the order asked; each is an ordinary one, too.

    Refused is per machine: what can be stored is, and then ``CommitRefused`` is raised. Acknowledge by ``committed``.
    """

    def __init__(self, memory: Changing, leases: dict[str, Lease[Written, Shown]]) -> None:
        self._memory = memory
        self._asked = leases
        self._held: dict[str, Lease[Written, Shown]] = {}
        self.denied: list[str] = []
        """The ids that could not be had."""
        self._committed: dict[str, int] = {}
        self._may_go_back = False
        """Whether a transaction that the commit has joined may have been rolled back since."""
        self.refused: dict[str, errors.MachineMemoryError] = {}
        """What each machine would have raised alone, by id."""

    def __repr__(self) -> str:
        return f"<Batch of {len(self._held)} leases, {len(self.denied)} denied, {self.remaining:.3f} s left>"

    def __iter__(self) -> Iterator[Lease[Written, Shown]]:
        return iter(self._held.values())

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, id: object) -> bool:
        return id in self._held

    def __getitem__(self, id: str) -> Lease[Written, Shown]:
        return self._held[id]

    @property
    def committed(self) -> dict[str, int]:
        """The new versions of what was committed, by id; not of what was rolled back since."""
        if self._may_go_back:
            leases = {id: self._held[id] for id in self._committed}
            self._may_go_back = not all(lease._is_settled for lease in leases.values())
            stored = {id: version for id, version in self._committed.items() if leases[id].version >= version}
            if self._may_go_back:
                return stored
            self._committed = stored
        return self._committed

    @property
    def remaining(self) -> float:
        """Seconds left of the lease that ends first."""
        return min((lease.remaining for lease in self), default=0.0)

    def write(
        self, states: Mapping[str, Written], *, metadata: Metadata | None = None, wake_at: WakeAt = KEEP
    ) -> dict[str, int]:
        """Write the state of each machine, and stay the holder.

        Returns the new versions by id. Raises ``CommitRefused`` once what could be written is.
        """
        return self._write(states, metadata, wake_at, release=False)

    def commit(
        self, states: Mapping[str, Written], *, metadata: Metadata | None = None, wake_at: WakeAt = KEEP
    ) -> dict[str, int]:
        """Write the state of each machine and release it, in one atomic step for each.

        Returns and raises as ``write``; machines that ``states`` leaves out stay held until the block ends.
        """
        return self._write(states, metadata, wake_at, release=True)

    def renew(self, ttl: float | timedelta | None = None) -> None:
        """Extend the leases to ``ttl`` seconds from now, by default to the ttl of each.

        Raises ``CommitRefused`` with a ``LockLost`` for each that is over, once the others are extended.
        """
        seconds, asked_at = None if ttl is None else validation.ttl(ttl), self._memory.store.monotonic()
        live = [lease for lease in self if not lease._is_given_back]
        asked, lost = len(live), dict[str, errors.MachineMemoryError]()
        for lease in live:
            try:
                lease._check()
            except errors.LockLost as error:
                lost[lease.id] = error
        live = [lease for lease in live if lease.id not in lost]
        terms = {lease: seconds or lease.ttl for lease in live}
        for some in pieces(live, self._memory.store.batch):
            with self._step("renew", errors.LockError) as step:
                step.batch(len(some))
                refs = [(lease.id, lease._token, terms[lease]) for lease in some]
                renewed, over = self._memory.store.renew_each(refs)
                step.outcome = "renewed"
            for lease in some:
                if lease._token in renewed:
                    lease._renewed(terms[lease], asked_at)
                    keeper.note(lease)
                elif lease._token in over:
                    lost[lease.id] = lock_lost(lease.id)
                else:  # Its row is in use just now.
                    try:
                        lease.renew(seconds)
                    except errors.LockLost as error:
                        lost[lease.id] = error
        self._raise_refused("renew", asked, lost)

    def release(self) -> bool:
        """Give back what is still held. Returns whether that was done; else it is done in the background."""
        live = [lease for lease in self if not lease._is_given_back and lease._is_own]
        done: set[str] = set()
        try:
            # Amid another step of this thread, as a signal handler is, the keeper does it.
            for some in () if is_taken_here() else pieces(live, self._memory.store.batch):
                with lifecycle.ending(*some), self._step("unlock", errors.LockError) as step:
                    step.batch(len(some))
                    done |= self._memory.store.release_each([lease._ref for lease in some])
                    step.outcome = "released"
        except errors.StoreError:
            pass  # Telemetry was told; and the keeper tries on.
        for lease in live:
            if lease._token in done:
                lifecycle.end(lease, "was released")
            else:
                lifecycle.abandon(lease)
        return len(done) == len(live)

    async def awrite(
        self, states: Mapping[str, Written], *, metadata: Metadata | None = None, wake_at: WakeAt = KEEP
    ) -> dict[str, int]:
        """See ``write``."""
        return await self._memory.steps.hop(self.write, states, metadata=metadata, wake_at=wake_at)

    async def acommit(
        self, states: Mapping[str, Written], *, metadata: Metadata | None = None, wake_at: WakeAt = KEEP
    ) -> dict[str, int]:
        """See ``commit``."""
        return await self._memory.steps.hop(self.commit, states, metadata=metadata, wake_at=wake_at)

    async def arenew(self, ttl: float | timedelta | None = None) -> None:
        """See ``renew``."""
        await self._memory.steps.hop(self.renew, ttl)

    async def arelease(self) -> bool:
        """See ``release``."""
        return await self._memory.steps.hop(self.release)

    def _write(
        self, states: Mapping[str, Written], metadata: Metadata | None, wake_at: WakeAt, *, release: bool
    ) -> dict[str, int]:
        written: dict[str, int] = {}
        refused: dict[str, errors.MachineMemoryError] = {}
        changes = []
        for id, data in states.items():
            try:
                changes.append(self._change(id, data, metadata, wake_at, release=release))
            except errors.MachineMemoryError as error:
                refused[id] = error
        try:
            in_order = with_ancestors(sorted(changes, key=lambda change: change.id))
            for some in by_size(in_order, self._memory.store.batch):
                self._store(some, written, refused, release=release)
        finally:
            if release:
                self._committed |= written
                self._may_go_back = True
            self.refused = {id: error for id, error in self.refused.items() if id not in written}
        self._raise_refused("commit" if release else "write", len(states), refused)
        return {id: written[id] for id in states}

    def _change(self, id: str, data: Written, metadata: Metadata | None, wake_at: WakeAt, *, release: bool) -> Change:
        lease = self._held.get(validation.machine_id(id))
        if lease is None:
            raise errors.LockNotHeld(f"{quoted(id)} is not of this batch: write what it holds.")
        change = self._memory._change(
            id, data, lease, lease.version, metadata=metadata, wake_at=wake_at, release=release
        )
        lease._check()
        return change

    def _store(
        self,
        changes: list[Change],
        written: dict[str, int],
        refused: dict[str, errors.MachineMemoryError],
        *,
        release: bool,
    ) -> None:
        asked_at = self._memory.store.monotonic()
        leases = {change.id: self._held[change.id] for change in changes}
        ending = lifecycle.ending(*leases.values() if release else ())
        try:
            with ending, self._step("commit" if release else "write", errors.WriteError) as step:
                step.batch(len(changes))
                for change, version in self._versions(changes, refused):
                    written[change.id] = version
                    lifecycle.wrote(leases[change.id], change.data, version, asked_at, release=release)
                step.wrote_each([change.data for change in changes if change.id in written])
                if kinds := Counter(step.refused(refused[id]) for id in leases if id in refused):
                    step.note(refused=kinds.total())
                    told = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
                    logger.warning("refused to write %d of %d machines: %s", kinds.total(), len(changes), told)
        except errors.StoreError as error:
            refused |= {id: error for id in leases if id not in written and id not in refused}

    def _versions(
        self, changes: list[Change], refused: dict[str, errors.MachineMemoryError]
    ) -> Iterator[tuple[Change, int]]:
        """Yield what was written: all that one statement can, and then each of the others alone, or why not."""
        store = self._memory.store
        done = store.write_each(changes)
        for change in changes:
            if change.id in done:
                yield change, (change.expected_version or 0) + 1
        for change in changes:
            if change.id not in done:
                try:
                    version = store.write(change)
                except errors.UnknownOutcome:  # As any failure of the store: it is not met once for each machine.
                    raise
                except (errors.LeaseError, errors.VersionConflict, errors.CorruptRecord, errors.WriteError) as error:
                    refused[change.id] = error
                else:
                    yield change, version

    def _raise_refused(self, verb: str, asked: int, refused: dict[str, errors.MachineMemoryError]) -> None:
        self.refused |= refused
        if refused:
            message = f"{len(refused)} of {asked} machines were refused to {verb}; the others are done"
            raise errors.CommitRefused(message, list(dict.fromkeys(refused.values())))

    def _step(self, name: str, error: type[errors.StoreError]) -> Step:
        return self._memory.steps(name, MACHINES, error)

    # For its block

    def _take(self) -> None:
        try:
            self._ask()
        except BaseException:  # Whoever asked may be gone: only who knows the answer can give back.
            self._abandon()
            raise

    def _ask(self) -> None:
        store, order = self._memory.store, sorted(self._asked.values(), key=lambda lease: lease.id)
        for some in pieces(order, store.batch):
            with self._step("lock", errors.LockError) as step:
                step.batch(len(some))
                asked_at, first = store.monotonic(), some[0]
                asked = {lease._token: lease.id for lease in some}
                granted = store.acquire_each(asked, owner=first.owner, ttl=first.ttl, trace=step.trace())
                for lease in some:
                    if grant := granted.get(lease._token):
                        lease._grant(grant, asked_at)
                step.locked_each(list(granted.values()), denied=len(some) - len(granted), ttl=first.ttl)
            log_takeovers(granted.values())
        self.denied = [id for id, lease in self._asked.items() if lease._granted_at is None]
        self._asked = {id: lease for id, lease in self._asked.items() if lease._granted_at is not None}
        if any(lease._is_unwanted for lease in self._asked.values()):
            self._abandon()  # Whoever asked was cancelled meanwhile, and knew of no grant.
        self._admit()

    def _admit(self) -> None:
        for id, lease in self._asked.items():
            if not lease.remaining:
                raise errors.LockError(f"The store took longer to lock {quoted(id)} than the ttl of {lease.ttl:g} s.")
            try:
                lease.data  # noqa: B018
            except errors.CorruptRecord as error:
                self.refused[id] = error
                lifecycle.abandon(lease)
            else:
                self._held[id] = lease

    def _begin(self) -> None:
        hold(*self)
        for lease in self:
            if lease._keep_alive:
                keeper.keep(lease)

    def _leave(self) -> None:
        for lease in self:
            keeper.dismiss(lease)
        if any(not lease._is_given_back for lease in self):
            self.release()
        for lease in self:
            if not lease._is_settled:
                lifecycle.abandon(lease)  # A rollback would leave it behind.
        forget(*self)

    def _abandon(self) -> None:
        for lease in self._asked.values():
            keeper.dismiss(lease)
            forget(lease)
            lease._is_unwanted = True
            if lease._is_own and not (lease._is_given_back and lease._is_settled):
                keeper.give_back(lease, may_come=lease._granted_at is None)


def log_takeovers(grants: Iterable[Grant]) -> None:
    if evicted := sum(grant.evicted is not None for grant in grants):
        logger.warning("took over %d machines from leases that expired", evicted)
