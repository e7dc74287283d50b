"""Delete the state of machines that are done."""

from typing import Any

from django.core.management.base import CommandParser

from machine_memory.core.memory import BaseMachineMemory
from machine_memory.core.records import PurgeResult
from machine_memory.management.purging import PurgeCommand, duration_of


class Command(PurgeCommand):
    help = (
        "Delete machines of a status that nobody has written for a while, that nobody holds and that wait for no timer."
        " Their age is the time since their last write. A run that was interrupted can be repeated."
    )
    criteria = ("status", "idle", "tree")
    durations = ("idle",)
    example = "manage.py purge_machines --status done --idle 30d --tree --dry-run"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--status", required=True, help="The status that a machine must have, exactly.")
        parser.add_argument(
            "--idle",
            type=duration_of("--idle"),
            required=True,
            metavar="AGE",
            help="The time since its last write, at least: 90s, 1h, 30d.",
        )
        parser.add_argument("--tree", action="store_true", help="Delete whole trees alone, where every machine may go.")
        super().add_arguments(parser)

    def purge(self, memory: BaseMachineMemory, **options: Any) -> PurgeResult:
        return memory.purge_machines(**options)

    def summary(self, result: PurgeResult, *, dry_run: bool) -> str:
        if dry_run:
            return f"would delete {result.deleted:,} machines with {result.bytes:,} bytes of state."
        return f"deleted {result.deleted:,} machines."
