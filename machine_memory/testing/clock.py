"""A clock that stands still until a test moves it."""

import time
from datetime import UTC, datetime, timedelta

from machine_memory.core import validation


class Clock:
    """The time of memories in this process: leases, timers and what remains of a lease go by it."""

    def __init__(self) -> None:
        self._seconds = float(int(time.time()))

    def __call__(self) -> float:
        """Return the seconds since 1970."""
        return self._seconds

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(self._seconds, UTC)

    def advance(self, by: float | timedelta) -> None:
        """Let so many seconds go by in which no worker of this process did anything, the keeper of leases neither."""
        self._seconds += validation.ttl(by, "by", least=0, most=validation.MAX_AGE)
