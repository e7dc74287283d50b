"""Copying machines from one memory to another, each under a lease at the source, in batches; and comparing them."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import fields
from datetime import datetime, timedelta
from heapq import merge
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

from machine_memory.core.encoding import decode
from machine_memory.core.failures import MACHINES
from machine_memory.core.memory import BaseMachineMemory
from machine_memory.core.records import Criteria, Snapshot, Summary, listed
from machine_memory.core.validation import label, machine_id, quoted, state
from machine_memory.exceptions import LeaseError, MachineMemoryError, ReadError, WriteError

LISTED = 100_000
"""Machines that are listed at once: for each list of them Redis has all its keys looked through."""
MOST = 1024 * 1024
"""Characters of state that are stored at once, beyond the first machine: servers limit the size of a packet."""
PAUSE = 0.5
"""Seconds between two attempts to have what somebody holds."""
PRECISION = timedelta(milliseconds=1)
"""Of the clocks: SQLite's tells no less."""

OnBatch = Callable[[int], object]
Pair = tuple[Summary | None, Summary | None]
"""A machine at the source, and at the target."""
Told = tuple[str, int, Summary]
"""An id, which side that is, and what is known there."""


class Run(ABC):
    """What is done with all machines of two memories, the source and the target, or with those of a prefix."""

    fault = ""
    """What those have in common that are ``wrong``."""

    def __init__(self, source: BaseMachineMemory, target: BaseMachineMemory, prefix: str | None) -> None:
        self._source, self._target, self._prefix = source, target, prefix
        self.seen = 0
        self.wrong: dict[str, str] = {}
        """What is wrong with machines, by id."""

    @property
    @abstractmethod
    def done(self) -> str:
        """What was done until now, in a few words."""

    def run(self, size: int, on_batch: OnBatch) -> None:
        """Go through both, ``size`` machines at a time; ``on_batch`` is told how many of the source that were.

        Raises as ``lock``, ``read`` and ``write``; what was done until then stays so.
        """
        sides = (self._told(memory, side) for side, memory in enumerate((self._source, self._target)))
        pairs = _paired(merge(*sides, key=itemgetter(0, 1)))
        while some := list(islice(pairs, size)):
            self._batch(some)
            self.seen += sum(ours is not None for ours, _ in some)
            on_batch(self.seen)

    def count(self) -> int:
        """Return how many machines of the source there are to go through."""
        return sum(1 for _ in self._told(self._source, 0))

    @abstractmethod
    def _batch(self, pairs: list[Pair]) -> None: ...

    def _told(self, memory: BaseMachineMemory, side: int) -> Iterator[Told]:
        criteria = Criteria(prefix=self._prefix)

        def read(after: str, limit: int) -> list[Summary]:
            with memory.steps("find", MACHINES, ReadError, "read") as step:
                found = memory.store.find(criteria, after, limit)
                step.outcome = "hit"
                return found

        return ((one.id, side, one) for one in listed(read, LISTED))


class Copying(Run):
    """Brings machines to the target as they are, parents first, and waits so many seconds for those that are held."""

    fault = "were not copied"

    def __init__(self, *ends: Any, wait: float, dry_run: bool) -> None:
        super().__init__(*ends)
        self._seconds, self._dry_run = wait, dry_run
        self._ahead: set[str] = set()
        """The ids of those that were copied before their turn, as parents of others."""
        self._held: list[str] = []
        self.copied = self.passed = 0

    @property
    def done(self) -> str:
        did = "would copy" if self._dry_run else "copied"
        passed = f", passed over {self.passed:,} that are there" if self.passed else ""
        return f"{did} {self.copied:,} machines{passed}"

    def run(self, size: int, on_batch: OnBatch) -> None:
        super().run(size, on_batch)
        self._wait(size)
        self.wrong |= dict.fromkeys(self._held, "Somebody holds it at the source.")

    def _batch(self, pairs: list[Pair]) -> None:
        found = [ours for ours, theirs in pairs if ours and self._is_wanted(ours, theirs)]
        if self._dry_run:
            self.copied += len(found)
        elif found:
            self._copy(self._with_parents(found))

    def _is_wanted(self, ours: Summary, theirs: Summary | None) -> bool:
        if ours.id in self._ahead:
            self._ahead.remove(ours.id)
            return False
        if theirs is None or (ours.version, ours.fence) > (theirs.version, theirs.fence):
            if fault := _fault_of(ours.id):
                self.wrong[ours.id] = fault
            return not fault
        if theirs.version > ours.version:
            self.wrong[ours.id] = _newer(theirs.version, ours.version)
        else:
            self.passed += 1
        return False

    def _with_parents(self, found: Sequence[Summary]) -> list[str]:
        ids, last = [one.id for one in found], found[-1].id
        while found := self._parents(found, after=last):
            above = [one.id for one in found]
            self._ahead.update(above)
            ids += above
        return ids

    def _parents(self, found: Sequence[Summary], *, after: str) -> list[Snapshot]:
        """Return the parents that have not had their turn by then, and that the target has not as they are."""
        ids = {one.parent for one in found if one.parent and one.parent > after} - self._ahead
        ids = {id for id in ids if id.startswith(self._prefix or "") and not _fault_of(id)}
        there = {one.id: one for one in exported(self._target, ids)}
        return [one for one in exported(self._source, ids) if _is_newer(one, there.get(one.id))]

    def _copy(self, ids: list[str]) -> None:
        with self._source.leases(ids, keep_alive=True) as batch:
            held = [lease.id for lease in batch]
            machines = parents_first(exported(self._source, held))
            for id in set(held) - {machine.id for machine in machines}:
                # It was removed since it was listed: the lease alone has brought it back.
                with suppress(LeaseError):
                    self._source.cleanup(id)
            for some in _by_size(machine for machine in machines if self._fits(machine)):
                self._adopt(some)
        self._held += batch.denied
        self.wrong |= {id: str(error) for id, error in batch.refused.items()}

    def _fits(self, machine: Snapshot) -> bool:
        """Say whether the target would take the machine from a writer, too."""
        checks = {"status": label, "source": label, "initiator": label, "parent": machine_id, "root": machine_id}
        max_bytes, max_depth = self._target.max_data_bytes, self._target.max_data_depth
        try:
            state(decode(machine.text), max_bytes=max_bytes, max_depth=max_depth)
            for name, check in checks.items():
                if (value := getattr(machine, name)) is not None:
                    check(value, name)
        except MachineMemoryError as error:
            self.wrong[machine.id] = str(error)
            return False
        return True

    def _adopt(self, machines: list[Snapshot]) -> None:
        with self._target.steps("adopt", MACHINES, WriteError, "copy") as step:
            step.batch(len(machines))
            adopted = self._target.store.adopt(machines)
            step.outcome = "written"
        self.copied += len(adopted)
        for machine in machines:
            if machine.id not in adopted:
                self._ask_why(machine)

    def _ask_why(self, machine: Snapshot) -> None:
        if holder := self._target.holder(machine.id):
            self.wrong[machine.id] = f"{quoted(holder.owner)} holds it at the target."
            return
        there = next(iter(exported(self._target, [machine.id])), None)
        if there is None:
            self.wrong[machine.id] = "It was in use at the target just then: run it again."
        elif there.version > machine.version:
            self.wrong[machine.id] = _newer(there.version, machine.version)
        else:
            self.passed += 1

    def _wait(self, size: int) -> None:
        deadline = time.monotonic() + self._seconds
        while self._held and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(PAUSE, left))
            held, self._held = iter(self._held), []
            while some := list(islice(held, size)):
                self._copy(some)


class Comparing(Run):
    """Says in what the machines of the target are not as those of the source."""

    fault = "differ"

    @property
    def done(self) -> str:
        return f"compared {self.seen:,} machines"

    def _batch(self, pairs: list[Pair]) -> None:
        both = [ours.id for ours, theirs in pairs if ours and theirs]
        here, there = ({one.id: one for one in exported(side, both)} for side in (self._source, self._target))
        for ours, theirs in pairs:
            if theirs is None and ours is not None:
                self.wrong[ours.id] = "It is not at the target."
            elif ours is None and theirs is not None:
                self.wrong[theirs.id] = "It is at the target alone: was it removed at the source?"
        for id in both:
            if id not in here or id not in there:
                self.wrong[id] = "It was removed meanwhile."
            elif names := differences(here[id], there[id]):
                self.wrong[id] = f"It differs in {', '.join(names)}."


def refusal(source: BaseMachineMemory, target: BaseMachineMemory) -> str | None:
    """Return why machines cannot go from the one memory to the other; ``None``: they can."""
    for memory in (source, target):
        if memory.store.alone:
            return (
                f"The memory {quoted(memory.steps.alias)} is in one process alone: this command has none of the"
                " machines of your workers, and what it copied there would end with it."
            )
    database = source.store.database
    if source is target or (database is not None and database == target.store.database):
        return f"--from and --to are the same machines, {source.store.place}: name two places."
    return None


def exported(memory: BaseMachineMemory, ids: Iterable[str]) -> list[Snapshot]:
    if not (several := list(ids)):
        return []
    with memory.steps("export", MACHINES, ReadError, "read") as step:
        step.batch(len(several))
        found = memory.store.export(several)
        step.outcome = "hit" if found else "miss"
        return found


def parents_first(machines: Iterable[Snapshot]) -> list[Snapshot]:
    """Return machines in an order in which none comes before its parent, which may be none of them."""
    by_id = {machine.id: machine for machine in machines}
    order: dict[str, Snapshot] = {}
    for machine in by_id.values():
        line: dict[str, Snapshot] = {}
        one: Snapshot | None = machine
        while one is not None and one.id not in order and one.id not in line:
            line[one.id] = one
            one = by_id.get(one.parent or "")
        order |= reversed(line.items())
    return list(order.values())


def differences(ours: Snapshot, theirs: Snapshot) -> list[str]:
    """Return in what the one is not as the other; a fence may be higher at the target."""
    found = []
    for name in (field.name for field in fields(Snapshot)):
        here, there = getattr(ours, name), getattr(theirs, name)
        if there < here if name == "fence" else not _alike(here, there):
            found.append("state" if name == "text" else name)
    return found


def _alike(here: Any, there: Any) -> bool:
    if isinstance(here, datetime) and isinstance(there, datetime):
        return abs(here - there) < PRECISION
    return bool(here == there)


def _is_newer(ours: Snapshot, theirs: Snapshot | None) -> bool:
    return theirs is None or ours.is_newer(theirs.version, theirs.fence)


def _fault_of(id: str) -> str:
    try:
        machine_id(id)
    except MachineMemoryError as error:
        return str(error)
    return ""


def _newer(there: int, here: int) -> str:
    return f"The target is newer, at version {there}, and the source at {here}: it was left alone."


def _paired(told: Iterable[Told]) -> Iterator[Pair]:
    """Yield the machines of both sides side by side."""
    for _, group in groupby(told, key=itemgetter(0)):
        found = {side: one for _, side, one in group}
        yield found.get(0), found.get(1)


def _by_size(machines: Iterable[Snapshot]) -> Iterator[list[Snapshot]]:
    some: list[Snapshot] = []
    size = 0
    for machine in machines:
        if some and size + len(machine.text) > MOST:
            yield some
            some, size = [], 0
        some.append(machine)
        size += len(machine.text)
    if some:
        yield some
