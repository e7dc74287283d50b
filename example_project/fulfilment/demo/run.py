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
from example_project.fulfilment.orchestrator import DONE
from machine_memory import memory

GLANCE = 0.1
"""Seconds between two looks at the crew."""
PATIENCE = 30
"""Seconds in which nothing moves, after which the run is given up."""


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
        left, moved_at = _left(), time.monotonic()
        while left:
            crew.tend()
            time.sleep(GLANCE)
            _show(progress, bar)
            before, left = left, _left()
            if left != before:
                moved_at = time.monotonic()
            elif time.monotonic() - moved_at > PATIENCE:
                raise CommandError(f"No delivery was acknowledged, and no order was cancelled, for {PATIENCE} seconds.")
    return audit()


def _show(progress: Progress, bar: TaskID) -> None:
    progress.update(bar, completed=Delivery.objects.acknowledged().count(), killed=Kill.objects.done().count())


def _left() -> int:
    """Return how many deliveries wait; where none does, how many orders do, for a payment that never comes."""
    return Delivery.objects.waiting().count() or sum(
        record is None or record.status != DONE for record in map(memory.record, Delivery.objects.unpaid())
    )
