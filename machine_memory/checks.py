"""System checks: what the configured memories have to say about their surroundings."""

from collections.abc import Iterator
from typing import Any

from django.core.checks import CheckMessage

from machine_memory.exceptions import InvalidConfiguration
from machine_memory.handler import memories
from machine_memory.problems import problem
from machine_memory.validation import quoted


def check_settings(**kwargs: Any) -> list[CheckMessage]:
    """Check what can be known without asking a server."""
    return list(_messages(deploy=False))


def check_servers(**kwargs: Any) -> list[CheckMessage]:
    """Check how the servers are set up; for ``manage.py check --deploy``."""
    return list(_messages(deploy=True))


def _messages(*, deploy: bool) -> Iterator[CheckMessage]:
    try:
        aliases = list(memories)
    except InvalidConfiguration as error:
        if not deploy:
            yield problem("E001", error=error)
        return
    for alias in aliases:
        try:
            found = list(memories[alias].check(deploy=deploy))
        except InvalidConfiguration as error:
            found = [] if deploy else [problem("E001", error=error)]
        for message in found:
            message.obj = f"MACHINE_MEMORIES[{quoted(alias)}]"
            yield message
