"""Upgrade machines at rest to the present shape of their states."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from machine_memory.core.memory import BaseMachineMemory
from machine_memory.core.typed import Shape
from machine_memory.core.validation import MAX_BATCH, option, quoted
from machine_memory.exceptions import MachineMemoryError
from machine_memory.handler import imported, memories
from machine_memory.management.progress import listed, progress
from machine_memory.management.signals import sigterm_raises
from machine_memory.management.upgrading import Upgrading


class Command(BaseCommand):
    help = (
        "Upgrade the machines of a typed memory to the present shape of their states, each under a lease. Those that"
        " somebody holds are passed over: they are upgraded when they are written next, or by the next run. Timers"
        " stay; the version and the time of the last write change. A run that was interrupted can be repeated."
    )

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        kwargs |= {"epilog": "Example: manage.py machine_memory_upgrade shop.orders.orders --prefix order- --dry-run"}
        return super().create_parser(prog_name, subcommand, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("path", metavar="PATH", help="The dotted path of what memory.typed(..., shape=N) returned.")
        parser.add_argument("--memory", metavar="ALIAS", help="One of MACHINE_MEMORIES; by default that of PATH.")
        parser.add_argument("--prefix", metavar="P", help="Only machines whose ids begin so.")
        parser.add_argument("--status", metavar="S", help="Only machines of this status.")
        parser.add_argument("--batch-size", type=int, default=100, metavar="N", help="Machines in one step (100).")
        parser.add_argument("--dry-run", action="store_true", help="Say what would be done, and do nothing.")

    def handle(self, *, path: str, verbosity: int, batch_size: int, dry_run: bool, **options: Any) -> None:
        try:
            memory, shape = _typed(path, options["memory"])
            size = option(batch_size, "--batch-size", int, most=MAX_BATCH)
            found = {key: options[key] for key in ("prefix", "status")}
            memory.find(**found)  # Says what is wrong with them, and looks for nothing before it is asked.
        except MachineMemoryError as error:
            raise CommandError(str(error)) from error
        upgrading = Upgrading(memory, shape, dry_run=dry_run)
        try:
            self._run(upgrading, memory, size, verbosity, found)
        except MachineMemoryError as error:
            done = f"{upgrading.upgraded:,} machines were upgraded until then; run it again for the rest."
            raise CommandError(f"{error} {done}") from error
        self._tell(upgrading, memory.steps.alias, shape, verbosity, dry_run=dry_run)

    def _tell(self, upgrading: Upgrading, alias: str, shape: Shape, verbosity: int, *, dry_run: bool) -> None:
        failed = [f"{quoted(id)}: {error}" for id, error in upgrading.failed.items()]
        if verbosity:
            did = "would upgrade" if dry_run else "upgraded"
            held = f", {len(upgrading.held):,} are held and were passed over" if upgrading.held else ""
            named = f": {listed([quoted(id) for id in upgrading.held], ', ')}" if upgrading.held else ""
            self.stdout.write(f"{alias}: {did} {upgrading.upgraded:,} machines to shape {shape.number}{held}{named}.")
        if failed:
            raise CommandError(f"{alias}: {len(failed):,} machines failed\n{listed(failed)}")

    def _run(
        self, upgrading: Upgrading, memory: BaseMachineMemory, size: int, verbosity: int, chosen: dict[str, Any]
    ) -> None:
        def count() -> int:
            return sum(1 for _ in memory.find(**chosen))

        with sigterm_raises(), progress(self.stderr, memory.steps.alias, verbosity, count) as on_batch:
            upgrading.run((found.id for found in memory.find(**chosen)), size, on_batch)


def _typed(path: str, alias: str | None) -> tuple[BaseMachineMemory, Shape]:
    """Return the memory whose machines are meant, without a type, and the shape that they are to have."""
    typed = imported(path, "PATH")
    shape = getattr(typed, "_shape", None)
    if not isinstance(shape, Shape) or shape.number is None:
        raise CommandError(
            f"PATH must be the dotted path of a typed memory whose states have a shape, as in orders ="
            f" memory.typed(Order, shape=2, upgrades={{1: ...}}), and {path} is none."
        )
    return (typed._of(None) if alias is None else memories[alias]), shape
