"""What the purging commands share, and others with them: their options, and which memories they are for."""

from abc import ABC, abstractmethod
from argparse import ArgumentTypeError
from collections.abc import Callable
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from machine_memory.core.memory import BaseMachineMemory
from machine_memory.core.records import PurgeResult
from machine_memory.core.validation import duration
from machine_memory.exceptions import InvalidTTL, MachineMemoryError
from machine_memory.handler import memories
from machine_memory.management.progress import progress


def duration_of(option: str) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            return duration(text, option)
        except InvalidTTL as error:
            raise ArgumentTypeError(str(error)) from None

    return parse


def in_turn(alias: str | None, work: Callable[[str], str], tell: Callable[[str], object]) -> None:
    """Do the work on one memory or on each, and tell what it says; failures are raised once every one had its turn."""
    failures = []
    for one in list(memories) if alias is None else [alias]:
        try:
            tell(f"{one}: {work(one)}")
        except MachineMemoryError as error:
            failures.append(f"{one}: {error}")
    if failures:
        raise CommandError("\n".join(failures))


class PurgeCommand(BaseCommand, ABC):
    """A command that purges each memory, or one of them."""

    example = ""
    criteria: tuple[str, ...] = ()
    """The options that say what is purged."""
    durations: tuple[str, ...] = ()
    """Those of them that are durations."""

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        kwargs |= {"epilog": f"Example: {self.example}"}
        return super().create_parser(prog_name, subcommand, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--memory", metavar="ALIAS", help="One of MACHINE_MEMORIES; by default each of them.")
        parser.add_argument("--batch-size", type=int, default=1000, metavar="N", help="Machines in one step (1000).")
        parser.add_argument("--dry-run", action="store_true", help="Say what would be done, and do nothing.")

    @abstractmethod
    def purge(self, memory: BaseMachineMemory, **options: Any) -> PurgeResult: ...

    @abstractmethod
    def summary(self, result: PurgeResult, *, dry_run: bool) -> str:
        """Say what was done, in a line."""

    def handle(self, *, memory: str | None, verbosity: int, dry_run: bool, **options: Any) -> None:
        # `call_command` hands its own options over as they are.
        options = {name: self._parsed(name, options[name]) for name in ("batch_size", *self.criteria)}

        def work(alias: str) -> str:
            return self.summary(self._purge(alias, verbosity, dry_run=dry_run, **options), dry_run=dry_run)

        in_turn(memory, work, self.stdout.write if verbosity else lambda line: None)

    def _parsed(self, name: str, value: Any) -> Any:
        if name not in self.durations or not isinstance(value, str):
            return value
        try:
            return duration(value, name)
        except InvalidTTL as error:
            raise CommandError(str(error)) from None

    def _purge(self, alias: str, verbosity: int, **options: Any) -> PurgeResult:
        memory = memories[alias]
        if options["dry_run"]:
            return self.purge(memory, **options)

        def count() -> int:
            return _seen(self.purge(memory, **{**options, "dry_run": True}))

        with progress(self.stderr, alias, verbosity, count) as on_batch:
            return self.purge(memory, **options, on_batch=lambda result: on_batch(_seen(result)))


def _seen(result: PurgeResult) -> int:
    return result.cleared + result.deleted
