"""Handlers of what is due, for the processes that tests start."""

import time
from typing import Any


def done(lease: Any) -> None:
    lease.commit({**lease.data, "done": lease.attempts})


async def adone(lease: Any) -> None:
    await lease.acommit({**lease.data, "done": lease.attempts})


def poison(lease: Any) -> None:
    raise ZeroDivisionError(f"on {lease.id}")


def slow(lease: Any) -> None:
    lease.write({**lease.data, "begun": True})
    time.sleep(0.3)
    lease.commit({**lease.data, "done": True})


nothing = None
