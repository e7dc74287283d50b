"""Measure contestants in turns, so that whatever else the machine does meets all of them alike."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from statistics import median

LEAST_ROUNDS = 5
NANOSECONDS = 1_000
"""In a microsecond."""

Steps = Mapping[str, Callable[[str], object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    name: str
    steps: Steps
    """Taken one after the other on the same machine, each timed for itself."""
    ids: Iterator[str]
    """The machines, without end."""
    around: Callable[[], AbstractContextManager[object]] = nullcontext
    """Entered for each turn, and not timed."""


@dataclass(slots=True)
class Race:
    """What the contestants took, in microseconds."""

    rounds: dict[tuple[str, str], list[list[float]]] = field(default_factory=dict)
    """By name and step: for each round, the times of one turn."""

    def median(self, name: str, step: str) -> float:
        return median(self._all(name, step))

    def percentile(self, name: str, step: str, share: float) -> float:
        times = sorted(self._all(name, step))
        return times[min(len(times) - 1, int(len(times) * share))]

    def ratio(self, name: str, step: str, to: str) -> float:
        """Return how many times as long as ``to`` it took: the median of the ratios of each round."""
        pairs = zip(self.rounds[name, step], self.rounds[to, step], strict=True)
        return median(median(mine) / median(theirs) for mine, theirs in pairs)

    def difference(self, name: str, step: str, to: str) -> float:
        """Return how many microseconds longer than ``to`` it took, likewise."""
        pairs = zip(self.rounds[name, step], self.rounds[to, step], strict=True)
        return median(median(mine) - median(theirs) for mine, theirs in pairs)

    def count(self, name: str, step: str) -> int:
        return len(self._all(name, step))

    def _all(self, name: str, step: str) -> list[float]:
        return [time for times in self.rounds[name, step] for time in times]


def race(contestants: Sequence[Contestant], *, seconds: float, turn: int = 10) -> Race:
    """Let each contestant take ``turn`` laps by turns, for as long as ``seconds`` says."""
    for contestant in contestants:
        _take_turn(contestant, turn)  # Opens connections, fills caches, plans statements.
    result = Race()
    deadline = time.monotonic() + seconds
    rounds = 0
    while rounds < LEAST_ROUNDS or time.monotonic() < deadline:
        for contestant in contestants:
            for step, times in _take_turn(contestant, turn).items():
                result.rounds.setdefault((contestant.name, step), []).append(times)
        rounds += 1
    return result


def _take_turn(contestant: Contestant, laps: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {step: [] for step in contestant.steps}
    clock = time.perf_counter_ns
    with contestant.around():
        for id in islice(contestant.ids, laps):
            for step, take in contestant.steps.items():
                start = clock()
                take(id)
                times[step].append((clock() - start) / NANOSECONDS)
    return times
