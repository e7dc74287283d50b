"""Work off the machines that are due."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from machine_memory.core.validation import option
from machine_memory.exceptions import MachineMemoryError
from machine_memory.handler import DEFAULT_MEMORY_ALIAS, imported, memories
from machine_memory.management.purging import duration_of
from machine_memory.management.signals import stopped_by_signals
from machine_memory.management.waking import Waking


class Command(BaseCommand):
    help = (
        "Claim the machines that are due and call a handler with the lease of each, until SIGTERM or SIGINT; the batch"
        " in hand is finished before. What the handler raises is logged, and its machine is due again later."
    )

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        kwargs |= {"epilog": "Example: manage.py machine_memory_wake shop.deadlines.handle --workers 4"}
        return super().create_parser(prog_name, subcommand, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("handler", metavar="HANDLER", help="The dotted path of a function or coroutine function.")
        parser.add_argument("--memory", default=DEFAULT_MEMORY_ALIAS, metavar="ALIAS", help="One of MACHINE_MEMORIES.")
        parser.add_argument("--limit", type=int, default=100, metavar="N", help="Machines of one batch (100).")
        parser.add_argument("--status", metavar="S", help="Only machines of this status.")
        parser.add_argument(
            "--ttl", type=duration_of("--ttl"), metavar="T", help="Of the leases: 90s, 5m; by default the memory's."
        )
        parser.add_argument("--workers", type=int, default=1, metavar="N", help="Threads (1).")

    def handle(self, *, handler: str, memory: str, workers: int, verbosity: int, **options: Any) -> None:
        chosen = {name: options[name] for name in ("limit", "status", "ttl")}
        try:
            threads = option(workers, "--workers", int)
            waking = Waking(memories[memory], _handler(handler), **chosen)
        except MachineMemoryError as error:
            raise CommandError(str(error)) from error

        def said() -> str:
            return f"{memory}: {waking.handled:,} machines handled, {waking.failed:,} failed"

        def on_progress() -> None:
            if self.stderr.isatty():
                self.stderr.write(f"\r{said()}", ending="")

        with stopped_by_signals(waking.stop):
            waking.run(threads, on_progress)
        if self.stderr.isatty():
            self.stderr.write("")
        if verbosity:
            self.stdout.write(f"{said()}.")


def _handler(path: str) -> Any:
    handler = imported(path, "HANDLER")
    if not callable(handler):
        raise CommandError(f"HANDLER must be the dotted path of a function, not of a {type(handler).__name__}.")
    return handler
