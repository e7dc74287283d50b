"""What the purging commands share: their options, which memories they are for, and the progress that they show."""

import time
from abc import ABC, abstractmethod
from argparse import ArgumentTypeError
from collections.abc import Callable
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser, OutputWrapper

from machine_memory.backends.base import BaseMachineMemory
from machine_memory.exceptions import InvalidTTL, MachineMemoryError
from machine_memory.handler import memories
from machine_memory.records import PurgeResult
from machine_memory.validation import duration

EVERY = 5
"""Seconds between two lines of progress."""
BAR = 30


def duration_of(option: str) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            return duration(text, option)
        except InvalidTTL as error:
            raise ArgumentTypeError(str(error)) from None

    return parse


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
        failures = []
        for alias in [memory] if memory else list(memories):
            try:
                result = self._purge(alias, verbosity, dry_run=dry_run, **options)
            except MachineMemoryError as error:
                failures.append(f"{alias}: {error}")
                continue
            if verbosity:
                self.stdout.write(f"{alias}: {self.summary(result, dry_run=dry_run)}")
        if failures:  # Once every memory has had its turn.
            raise CommandError("\n".join(failures))

    def _parsed(self, name: str, value: Any) -> Any:
        if name not in self.durations or not isinstance(value, str):
            return value
        try:
            return duration(value, name)
        except InvalidTTL as error:
            raise CommandError(str(error)) from None

    def _purge(self, alias: str, verbosity: int, **options: Any) -> PurgeResult:
        memory, terminal = memories[alias], self.stderr.isatty()
        if options["dry_run"] or not (terminal or verbosity > 1):
            return self.purge(memory, **options)
        expected = self.purge(memory, **{**options, "dry_run": True}) if terminal else PurgeResult()
        progress = _Progress(self.stderr, alias, expected.cleared + expected.deleted if terminal else 0)
        try:
            return self.purge(memory, **options, on_batch=progress)
        finally:
            progress.end()


class _Progress:
    """A bar on a terminal, and elsewhere a line every few seconds."""

    def __init__(self, output: OutputWrapper, alias: str, expected: int) -> None:
        self._output, self._alias, self._expected = output, alias, expected
        self._next = 0.0

    def __call__(self, result: PurgeResult) -> None:
        done = result.cleared + result.deleted
        if self._expected:
            filled = min(BAR, BAR * done // self._expected)
            bar = "#" * filled + "." * (BAR - filled)
            self._output.write(f"\r{self._alias} [{bar}] {done:,} of {self._expected:,}", ending="")
        elif time.monotonic() >= self._next:
            self._output.write(f"{self._alias}: {done:,} machines so far")
            self._next = time.monotonic() + EVERY

    def end(self) -> None:
        if self._expected:
            self._output.write("")
