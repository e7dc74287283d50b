"""Measure contestants in turns, so that whatever else the machine does meets all of them alike."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain, islice
from operator import sub, truediv
from statistics import median

from django.utils.module_loading import import_string

from benchmarks import stores
from benchmarks.report import Report, environment

CYCLE = "lease + commit"
SECONDS = {"quick": 0.1, "usual": 2, "large": 2}
LEAST_ROUNDS = 5
NANOSECONDS = 1_000
"""In a microsecond."""
Steps = Mapping[str, Callable[[str], object]]


@dataclass(frozen=True, slots=True)
class Contestant:
    name: str
    steps: Steps
    """Taken one after the other on the same machine, each timed for itself."""
    ids: Iterator[str]
    """The machines, without end."""
    around: Callable[[], AbstractContextManager[object]] = nullcontext
    """Entered for each turn, and not timed."""

    def turn(self, laps: int) -> dict[str, list[float]]:
        """Return the microseconds of each step."""
        times: dict[str, list[float]] = {step: [] for step in self.steps}
        clock = time.perf_counter_ns
        with self.around():
            for id in islice(self.ids, laps):
                for step, take in self.steps.items():
                    start = clock()
                    take(id)
                    times[step].append((clock() - start) / NANOSECONDS)
        return times


class Race:
    """What the contestants took, in microseconds."""

    def __init__(self) -> None:
        self._rounds: dict[tuple[str, str], list[list[float]]] = {}
        """By name and step: for each round, the times of one turn."""

    def add(self, name: str, turn: Mapping[str, list[float]]) -> None:
        for step, times in turn.items():
            self._rounds.setdefault((name, step), []).append(times)

    def median(self, name: str, step: str = CYCLE) -> float:
        return median(chain.from_iterable(self._rounds[name, step]))

    def p99(self, name: str, step: str = CYCLE) -> float:
        return p99(chain.from_iterable(self._rounds[name, step]))

    def ratio(self, name: str, to: str, step: str = CYCLE) -> float:
        """Return how many times as long as ``to`` it took: the median of the ratios of each round."""
        return self._compared(truediv, name, to, step)

    def difference(self, name: str, to: str, step: str = CYCLE) -> float:
        """Return how many microseconds longer than ``to`` it took, likewise."""
        return self._compared(sub, name, to, step)

    def _compared(self, by: Callable[[float, float], float], name: str, to: str, step: str) -> float:
        return median(map(by, map(median, self._rounds[name, step]), map(median, self._rounds[to, step])))


@dataclass(slots=True, kw_only=True)
class Run:
    """How long it measures, how many machines, whom it tells how far it has come, and what could not be measured."""

    says: Callable[[str], object]
    size: str
    """``quick``, ``usual`` or ``large``."""
    seconds: float
    """How long a comparison is measured."""
    missing: dict[str, str]

    def race(self, what: str, contestants: Sequence[Contestant], *, share: float = 1, turn: int = 10) -> Race:
        """Let each contestant take ``turn`` laps by turns, for ``share`` of the usual time."""
        self.says(what)
        for contestant in contestants:
            contestant.turn(turn)  # Opens connections, fills caches, plans statements.
        race, rounds = Race(), 0
        deadline = time.monotonic() + self.seconds * share
        while rounds < LEAST_ROUNDS or time.monotonic() < deadline:
            for contestant in contestants:
                race.add(contestant.name, contestant.turn(turn))
            rounds += 1
        return race


def measure(parts: Mapping[str, str], size: str, says: Callable[[str], object]) -> Report:
    """Measure the parts one after the other, each by the path of a function that returns a section."""
    run = Run(says=says, size=size, seconds=SECONDS[size], missing=stores.missing)
    report = Report(environment(), run.missing)
    for part, path in parts.items():
        started = time.monotonic()
        report.sections[part] = section = import_string(path)(run)
        section.seconds = time.monotonic() - started
    return report


def p99(times: Iterable[float]) -> float:
    ascending = sorted(times)
    return ascending[int(len(ascending) * 0.99)]
