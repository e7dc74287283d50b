"""The store in this process: a dict."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from weakref import WeakSet

from django.conf import settings
from django.core.checks import CheckMessage

from machine_memory.core.mapping import MappingStore
from machine_memory.core.store import problem

_stores: "WeakSet[SimpleStore]" = WeakSet()

_EPOCH = time.time() - time.monotonic()


def steady_time() -> float:
    """Return seconds since 1970 that never step backwards while the process lives."""
    return _EPOCH + time.monotonic()


class SimpleStore(MappingStore):
    """Machines in a dict."""

    name = "simple"
    place = "in this process"
    waits = False
    alone = True

    def __init__(self, clock: Callable[[], float] = steady_time) -> None:
        super().__init__({}, threading.RLock(), clock)  # A signal handler may ask while its own thread is within.
        _stores.add(self)
        if clock is not steady_time:
            began = clock()  # So that differences are small, and exact.
            self.monotonic = lambda: clock() - began

    def check(self, *, deploy: bool) -> Iterator[CheckMessage]:
        """Yield that this is no place for machines in production."""
        if deploy and not settings.DEBUG:  # A test run has DEBUG off as well, but deploys nothing.
            yield problem(
                "W301",
                "The memory is in this process alone, and DEBUG is off: each process has machines and leases of its"
                " own, and loses them when it ends.",
                "Keep machines in a database or in Redis: see docs/reference/settings.md.",
            )


def _unlock() -> None:
    """In a forked child: the thread that may have been within a step is not there to end it."""
    for store in _stores:
        store._mutex = threading.RLock()


os.register_at_fork(after_in_child=_unlock)
