"""Upgrading machines at rest: each that is not of the present shape yet, under a lease, in batches."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import islice

from machine_memory.core.memory import BaseMachineMemory
from machine_memory.core.records import State
from machine_memory.core.typed import Shape
from machine_memory.exceptions import CommitRefused, CorruptRecord, InvalidData, MachineMemoryError


class Upgrading:
    """Brings machines of a memory, which has no type of its own, to a shape."""

    def __init__(self, memory: BaseMachineMemory, shape: Shape, *, dry_run: bool) -> None:
        self._memory, self._shape, self._dry_run = memory, shape, dry_run
        self.seen = self.upgraded = 0
        self.held: list[str] = []
        """The ids of those that somebody holds."""
        self.failed: dict[str, MachineMemoryError] = {}
        """What is wrong with the others, by id."""

    def run(self, ids: Iterable[str], size: int, on_batch: Callable[[int], object]) -> None:
        """Upgrade these machines, ``size`` at a time; ``on_batch`` is told how many were looked at until then."""
        left = iter(ids)
        while some := list(islice(left, size)):
            outdated = [id for id in some if self._upgraded(id, self._read(id)) is not None]
            if self._dry_run:
                self.upgraded += len(outdated)
            elif outdated:
                self._upgrade(outdated)
            self.seen += len(some)
            on_batch(self.seen)

    def _upgrade(self, ids: list[str]) -> None:
        # An upgrade is the project's own: what it may take long for is not to cost the leases.
        with self._memory.leases(ids, keep_alive=True) as batch:
            states = {lease.id: self._upgraded(lease.id, lease.data) for lease in batch}
            with suppress(CommitRefused):  # Each is in ``refused``.
                batch.commit({id: state for id, state in states.items() if state is not None})
        self.upgraded += len(batch.committed)
        self.held += batch.denied
        self.failed |= batch.refused

    def _read(self, id: str) -> State | None:
        try:
            return self._memory.read(id)
        except CorruptRecord as error:
            self.failed[id] = error
            return None

    def _upgraded(self, id: str, state: State | None) -> State | None:
        """Return what is to be stored; ``None``: the machine is as it should be, or cannot be."""
        try:
            if state is None or self._shape.number_of(id, state) == self._shape.number:
                return None
            return self._shape.dump(self._shape.load(id, state))
        except (CorruptRecord, InvalidData) as error:
            self.failed[id] = error
            return None
