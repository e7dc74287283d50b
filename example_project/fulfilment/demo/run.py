"""One run of the demo: fill the inbox, let the crew empty it, and look for what is lost."""

import time
from random import Random

from django.core.management.base import CommandError
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from example_project.fulfilment.demo.audit import Audit, audit
from example_project.fulfilment.demo.crew import Crew
from example_project.fulfilment.demo.inbox import fill
from example_project.fulfilment.models import Delivery, Kill

GLANCE = 0.1
"""Seconds between two looks at the crew."""
PATIENCE = 30
"""Seconds without an acknowledgement after which the run is given up."""


def run(console: Console, *, orders: int, workers: int, kills: int, seed: int) -> Audit:
    """Return what was found when every worker had ended. Raises ``CommandError`` where the run could not be ended."""
    fill(orders=orders, kills=kills, random=Random(seed))  # noqa: S311 - A run is to be repeatable.
    columns = (
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} deliveries"),
        BarColumn(),
        TextColumn("{task.fields[killed]} killed"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress, Crew(workers) as crew:
        bar = progress.add_task("", total=Delivery.objects.count(), killed=0)
        done, moved_at = _show(progress, bar), time.monotonic()
        while crew.tend():
            time.sleep(GLANCE)
            before, done = done, _show(progress, bar)
            if done > before:
                moved_at = time.monotonic()
            elif time.monotonic() - moved_at > PATIENCE:
                raise CommandError(f"No delivery was acknowledged for {PATIENCE} seconds.")
        _show(progress, bar)
    return audit()


def _show(progress: Progress, bar: TaskID) -> int:
    done = Delivery.objects.acknowledged().count()
    progress.update(bar, completed=done, killed=Kill.objects.done().count())
    return done
