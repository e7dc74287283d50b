"""System checks: what the configured memories have to say about their surroundings."""

from collections.abc import Iterator
from typing import Any

from django.core.checks import CheckMessage

from machine_memory.core.store import problem
from machine_memory.core.validation import quoted
from machine_memory.exceptions import InvalidConfiguration
from machine_memory.handler import DEFAULT_MEMORY_ALIAS, memories


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
            yield _wrong_settings(error)
        return
    if DEFAULT_MEMORY_ALIAS not in aliases and not deploy:
        yield problem(
            "W001",
            f"MACHINE_MEMORIES has no {DEFAULT_MEMORY_ALIAS!r}: whatever uses `memory` raises InvalidConfiguration.",
            f"Name one of them {DEFAULT_MEMORY_ALIAS!r}; or use `memories[alias]` alone, and silence this.",
        )
    for alias in aliases:
        try:
            found = list(memories[alias].store.check(deploy=deploy))
        except InvalidConfiguration as error:
            found = [] if deploy else [_wrong_settings(error)]
        for message in found:
            message.obj = f"MACHINE_MEMORIES[{quoted(alias)}]"
            yield message


def _wrong_settings(error: InvalidConfiguration) -> CheckMessage:
    return problem("E001", str(error), "Correct MACHINE_MEMORIES: see docs/reference/settings.md.")
