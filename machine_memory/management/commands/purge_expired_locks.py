"""Tidy up after workers that died with a lease."""

from typing import Any

from django.core.management.base import CommandParser

from machine_memory.core.memory import BaseMachineMemory
from machine_memory.core.records import PurgeResult
from machine_memory.management.purging import PurgeCommand, duration_of


class Command(PurgeCommand):
    help = (
        "End leases that have expired, and delete machines that were locked but never written."
        " Leases end by themselves: this tidies up. A live lease is never touched."
    )
    criteria = durations = ("older_than",)
    example = "manage.py purge_expired_locks --older-than 1h"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--older-than",
            type=duration_of("--older-than"),
            default=0.0,
            metavar="AGE",
            help="Leave alone what expired less than this ago: 90s, 1h, 30d (0).",
        )
        super().add_arguments(parser)

    def purge(self, memory: BaseMachineMemory, **options: Any) -> PurgeResult:
        return memory.purge_expired_locks(**options)

    def summary(self, result: PurgeResult, *, dry_run: bool) -> str:
        end, delete = ("would end", "would delete") if dry_run else ("ended", "deleted")
        return f"{end} {result.cleared:,} expired leases, {delete} {result.deleted:,} machines without state."
