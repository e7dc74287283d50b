"""Build what the listings of a memory go by."""

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from machine_memory.core.failures import MACHINES
from machine_memory.core.memory import BaseMachineMemory
from machine_memory.exceptions import WriteError
from machine_memory.handler import memories
from machine_memory.management.purging import in_turn


class Command(BaseCommand):
    help = (
        "Add what is lacking in the indexes by which children, trees and due machines are found, and remove what is"
        " there of machines that are gone. Only memories in Redis have such indexes. Needed once for machines that were"
        " written before there were any, and after a failover that may have lost some; others may go on meanwhile. Not"
        " while the slots of a cluster are moved: what moves may be missed."
    )

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        kwargs |= {"epilog": "Example: manage.py machine_memory_reindex --memory default --dry-run"}
        return super().create_parser(prog_name, subcommand, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--memory", metavar="ALIAS", help="One of MACHINE_MEMORIES; by default each of them.")
        parser.add_argument("--dry-run", action="store_true", help="Count what is lacking, and change nothing.")

    def handle(self, *, memory: str | None, dry_run: bool, verbosity: int, **options: Any) -> None:
        def work(alias: str) -> str:
            machines, hints = self._reindex(alias, memories[alias], dry_run=dry_run)
            return f"{machines:,} machines looked at, {hints:,} hints {'are lacking' if dry_run else 'were added'}."

        in_turn(memory, work, self.stdout.write if verbosity else lambda line: None)

    def _reindex(self, alias: str, memory: BaseMachineMemory, *, dry_run: bool) -> tuple[int, int]:
        machines = hints = 0
        with memory.steps("reindex", MACHINES, WriteError, yields=True) as step:
            for looked in memory.store.reindex(dry_run=dry_run):
                machines, hints = machines + looked.machines, hints + looked.lacking
                if self.stderr.isatty():
                    self.stderr.write(f"\r{alias}: {machines:,} machines looked at, {hints:,} hints lacking", ending="")
            step.outcome = "indexed"
        if machines and self.stderr.isatty():
            self.stderr.write("")
        return machines, hints
