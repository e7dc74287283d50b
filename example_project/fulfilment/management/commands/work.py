"""Run one worker."""

import os
import select
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from example_project.fulfilment.demo.kills import Executioner
from example_project.fulfilment.worker import work


class Command(BaseCommand):
    help = (
        "Handle the deliveries that wait in the inbox and the orders whose time is up, until the standard input ends."
    )
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", help="What the worker calls itself when it acknowledges a delivery.")

    def handle(self, *, name: str, **options: Any) -> None:
        work(name, stopped=_abandoned, observe=Executioner(name))


def _abandoned() -> bool:
    """Say whether the standard input has ended: so it does when the process that started this one is gone."""
    readable, _, _ = select.select([sys.stdin], [], [], 0)
    return bool(readable) and not os.read(sys.stdin.fileno(), 1)
