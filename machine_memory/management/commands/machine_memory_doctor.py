"""Look at each memory and its store."""

import json
from dataclasses import asdict, fields
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from machine_memory.doctor.examination import examine
from machine_memory.doctor.findings import ERROR, OK, WARNING, Finding
from machine_memory.exceptions import InvalidConfiguration
from machine_memory.handler import memories

COLUMNS = [field.name for field in fields(Finding)]


class Command(BaseCommand):
    help = (
        "Ask the store of each memory what the system checks cannot know: clocks, isolation, collations, replicas,"
        " migrations, persistence; and take a machine through lock, read, write and unlock. What is written on the way"
        " is removed. The exit status is 0 where all is well, 1 where something is wrong, 3 where there are warnings"
        " alone."
    )
    requires_system_checks: list[str] = []  # What they have to say is in the table.

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        kwargs |= {"epilog": "Example: manage.py machine_memory_doctor --memory default --json"}
        return super().create_parser(prog_name, subcommand, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--memory", metavar="ALIAS", help="One of MACHINE_MEMORIES; by default each of them.")
        parser.add_argument(
            "--json", action="store_true", dest="as_json", help=f"Print a list of objects: {', '.join(COLUMNS)}."
        )

    def handle(self, *, memory: str | None, as_json: bool, **options: Any) -> None:
        try:
            aliases = list(memories) if memory is None else [memory]
        except InvalidConfiguration as error:
            raise CommandError(str(error)) from error
        found = [finding for alias in aliases for finding in examine(alias)]
        self.stdout.write(
            json.dumps([asdict(finding) for finding in found], indent=2) if as_json else self._table(found)
        )
        levels = [finding.level for finding in found]
        if ERROR in levels or WARNING in levels:
            counts = f"Errors: {levels.count(ERROR)}, warnings: {levels.count(WARNING)}."
            raise CommandError(counts, returncode=1 if ERROR in levels else 3)

    def _table(self, found: list[Finding]) -> str:
        rows = [COLUMNS, *([finding.memory, finding.check, finding.level, finding.text] for finding in found)]
        *widths, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
        styles = {OK: self.style.SUCCESS, WARNING: self.style.WARNING, ERROR: self.style.ERROR}
        lines = []
        for *cells, text in rows:
            memory, check, level = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
            style = styles.get(level.strip(), str)
            lines.append(f"{memory}  {check}  {style(level)}  {text}")
        return "\n".join(lines)
