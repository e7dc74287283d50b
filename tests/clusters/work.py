"""What a process of its own does while servers come and go: hold few machines, and note what it was told."""

import os
import random
import time
from collections import Counter
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from machine_memory import BaseMachineMemory, MachineMemoryError, memories
from tests.actor import Actor

IDS = [f"order-{number}" for number in range(4)]
ENOUGH = 120
"""Seconds after which a process stops of itself."""
REPORT: dict[str, str] = {}
"""What the processes of each test were told, for the summary."""


@dataclass
class Figures:
    granted: list[tuple[str, int]] = field(default_factory=list)
    """Ids and fences."""
    acknowledged: list[tuple[str, int]] = field(default_factory=list)
    """Ids and versions."""
    doubles: int = 0
    """How often a machine was held that somebody else held, too."""
    torn: int = 0
    """How often a state was not that of its version."""
    errors: dict[str, int] = field(default_factory=dict)

    def summary(self) -> str:
        granted, acknowledged = len(self.granted), len(self.acknowledged)
        return (
            f"{granted} leases, {acknowledged} acknowledged writes, {self.doubles} double holders,"
            f" {len(repeated(self.granted))} fences twice, {len(repeated(self.acknowledged))} versions twice;"
            f" {dict(sorted(self.errors.items()))}"
        )


def hold(alias: str, folder: str, name: str) -> Figures:
    """Take machines, add one to each, and give them back, until told to stop; one of three times many at once."""
    memory, figures, notes = memories[alias], Figures(), Path(folder)
    ends_at = time.monotonic() + ENOUGH
    while not (notes / "stop").exists() and time.monotonic() < ends_at:
        try:
            _leave_behind(memory)
            if random.random() < 0.3:  # noqa: S311
                with memory.leases(random.sample(IDS, 2), ttl=3) as batch:
                    try:
                        batch.commit(_use(list(batch), figures, notes))
                    finally:
                        figures.acknowledged += batch.committed.items()
            else:
                with memory.lease(random.choice(IDS), ttl=3) as lease:  # noqa: S311
                    version = lease.commit(_use([lease], figures, notes)[lease.id])
                figures.acknowledged.append((lease.id, version))
        except* MachineMemoryError as group:
            for error in _leaves(group):
                kind = f"{type(error).__name__} ({' '.join(str(error.__cause__ or '').split())[:50]})"
                figures.errors[kind] = figures.errors.get(kind, 0) + 1
        else:
            (notes / f"{name} at work").write_text(str(time.monotonic()))
    return figures


def _leave_behind(memory: BaseMachineMemory) -> None:
    """Now and then let a lease expire, or tidy up what others left."""
    if random.random() < 0.1:  # noqa: S311
        Context().run(memory.lock, f"left-{random.randrange(4)}", ttl=0.5)  # noqa: S311
    if random.random() < 0.1:  # noqa: S311
        memory.purge_expired_locks()


def _use(leases: list[Any], figures: Figures, folder: Path) -> dict[str, Any]:
    """Return what becomes of machines, once nobody else has used them meanwhile."""
    figures.granted += [(lease.id, lease.fence) for lease in leases]
    marks, states = [], {}
    try:
        for lease in leases:
            mark = folder / lease.id
            try:
                os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
                marks.append(mark)
            except FileExistsError:
                figures.doubles += lease.remaining > 0
            counted = (lease.data or {"n": 0})["n"]
            figures.torn += counted != lease.version
            states[lease.id] = {"n": counted + 1}
        time.sleep(random.random() * 0.002)  # noqa: S311
    finally:
        for mark in marks:
            mark.unlink()
    return states


def _leaves(group: BaseExceptionGroup[Any]) -> list[BaseException]:
    return [*chain.from_iterable(_leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
                                 for error in group.exceptions)]  # fmt: skip


class Crew:
    """Some of these processes at once, and what they were told together."""

    def __init__(self, alias: str, folder: Path, size: int) -> None:
        self._folder = folder
        self._names = [f"worker {number}" for number in range(size)]
        self._actors = {name: Actor(alias) for name in self._names}
        for name, actor in self._actors.items():
            actor.tell("run", "tests.clusters.work.hold", alias, str(folder), name)

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *error: object) -> None:
        for actor in self._actors.values():
            actor.__exit__()

    def is_at_work(self, since: float) -> bool:
        """Say whether each has had a machine, and given it back, since this moment."""
        times = []
        for name in self._names:
            with suppress(FileNotFoundError, ValueError):  # It may be about to be written.
                times.append(float((self._folder / f"{name} at work").read_text()))
        return len(times) == len(self._names) and min(times) > since

    def stop(self) -> Figures:
        (self._folder / "stop").touch()
        total = Figures()
        for actor in self._actors.values():
            figures = actor.answer()
            total.granted += map(tuple, figures["granted"])
            total.acknowledged += map(tuple, figures["acknowledged"])
            total.doubles += figures["doubles"]
            total.torn += figures["torn"]
            total.errors = dict(Counter(total.errors) + Counter(figures["errors"]))
        return total


def repeated(pairs: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Return what was told more than once, though it can be true of one alone."""
    return [pair for pair, times in Counter(pairs).items() if times > 1]
