"""The demo: workers are killed in mid-lease, and no update is lost."""

import secrets
from typing import IO, Any, cast

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich.console import Console
from rich.tree import Tree

from example_project.fulfilment.demo.report import report
from example_project.fulfilment.demo.run import run
from example_project.fulfilment.demo.store import store
from machine_memory import LockDenied, memories, memory

ALONE = 10
"""Seconds for which a demo that died keeps the next one waiting."""


class Command(BaseCommand):
    help = "Drive orders through their workflow, kill some of the workers in mid-lease, and look for lost updates."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--orders", type=int, default=200, help="How many orders to fulfil (200).")
        parser.add_argument("--workers", type=int, default=4, help="How many processes work at the same time (4).")
        parser.add_argument("--kill", type=int, default=4, help="How many workers to end by SIGKILL in mid-lease (4).")
        parser.add_argument("--seed", type=int, help="Repeat the deliveries and the kills of an earlier run.")

    def handle(self, *, orders: int, workers: int, kill: int, seed: int | None, **options: Any) -> None:
        _check(orders, workers, kill)
        if seed is None:
            seed = secrets.randbelow(10_000)
        self.stdout.ending = ""  # Rich ends its lines itself.
        console = Console(file=cast(IO[str], self.stdout), no_color=options["no_color"], highlight=False)
        call_command("migrate", verbosity=0, interactive=False)
        console.print(f"Orders: {orders:,}, workers: {workers}, workers to be killed: {kill}, seed: {seed}")
        try:
            # Two leases, as inbox and machines may be in two stores, and either in use by another demo.
            with (
                memories["inbox"].lease("inbox", ttl=ALONE, keep_alive=True),
                store(console) as place,
                memory.lease("demo", ttl=ALONE, keep_alive=True),
            ):
                audit = run(console, orders=orders, workers=workers, kills=kill, seed=seed)
                tree = _trace() if settings.TRACE else None
        except LockDenied:
            raise CommandError(f"Another demo is running, or died less than {ALONE} seconds ago.") from None
        except KeyboardInterrupt:
            raise CommandError("Interrupted. Every worker has ended.", returncode=130) from None
        report(console, audit, orders=orders, place=place)
        if not audit.passed(orders=orders, kills=kill):
            raise CommandError(
                "An order is not complete, a lease was not taken over, or an update or a timer was lost."
            )
        if tree:
            console.print(tree)
        console.print("Look next: make serve")


def _trace() -> Tree:
    from example_project.fulfilment.demo.trace import trace_an_order  # noqa: PLC0415  # It needs what TRACE=1 installs.

    return trace_an_order()


def _check(orders: int, workers: int, kill: int) -> None:
    if orders < 1:
        raise CommandError(f"--orders must be at least 1, not {orders}.")
    if workers < 1:
        raise CommandError(f"--workers must be at least 1, not {workers}.")
    if not 0 <= kill <= orders:
        raise CommandError(f"--kill must be between 0 and the number of orders ({orders}), not {kill}.")
