"""One run: how long it measures, how far it has come, and what could not be measured."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from benchmarks import databases, environment, redis_store
from benchmarks.measure import Contestant, Race, race
from benchmarks.report import Report, Section
from tests import servers

USUAL_SECONDS = {
    "cycle": 29,
    "peers": 15,
    "throughput": 46,
    "growth": 75,
    "crowd": 14,
    "size": 19,
    "validation": 8,
    "telemetry": 12,
    "memory": 14,
    "purge": 15,
    "admin": 50,
}
"""What the parts take, for the progress bar; and all the parts there are, in their order."""
QUICK = 0.1
"""Seconds that a comparison is measured when the run is only tried out."""


@dataclass(slots=True, kw_only=True)
class Run:
    progress: Progress
    task: TaskID
    seconds: float
    """How long a comparison is measured."""
    quick: bool = False
    large: bool = False
    missing: dict[str, str] = field(default_factory=dict)
    """What could not be measured, and why."""
    _part: str = ""
    _started: float = 0
    _done: float = 0
    """What the parts before this one take."""

    def race(self, what: str, contestants: Sequence[Contestant], *, share: float = 1, turn: int = 10) -> Race:
        """Measure for ``share`` of the usual time."""
        self.says(what)
        return race(contestants, seconds=self.seconds * share, turn=turn)

    def says(self, what: str) -> None:
        done = self._done + min(time.monotonic() - self._started, USUAL_SECONDS[self._part])
        self.progress.update(self.task, description=what, completed=done)

    def part(self, name: str) -> Section:
        self._part, self._started = name, time.monotonic()
        section: Section = import_module(f"benchmarks.parts.{name}").measured(self)
        section.seconds = time.monotonic() - self._started
        self._done += USUAL_SECONDS[name]
        return section


def measure(parts: Sequence[str], *, seconds: float, quick: bool, large: bool) -> Report:
    """Measure the parts one after the other. What is not there is named in the report."""
    columns = (TextColumn("{task.description:40}"), BarColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        run = Run(
            progress=progress,
            task=progress.add_task("", total=sum(USUAL_SECONDS[part] for part in parts)),
            seconds=QUICK if quick else seconds,
            quick=quick,
            large=large,
            missing=servers.missing | redis_store.missing(),
        )
        with databases.scratch(*databases.available()):
            found = environment.describe()
        sections = {part: run.part(part) for part in parts}
    return Report(environment=found, missing=run.missing, sections=sections)
