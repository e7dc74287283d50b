"""Locks that nobody unlocks, taken one after the other in one context."""

import gc
import statistics
import time
import tracemalloc
from dataclasses import dataclass, field
from itertools import pairwise

from machine_memory import Lease, LeaseError
from tests.conftest import Worker
from tests.contract.stores import named

STATE = {"text": "x" * 4000}
EARLY = 500
"""As many locks at the beginning and at the end are timed."""


@dataclass
class Figures:
    locks: int
    early: float = 0.0
    """Microseconds of a lock at the beginning."""
    late: float = 0.0
    remembered: int = 0
    """Leases that there are in this process at the end."""
    kilobytes: float = 0.0
    """That they take, with whatever else came with them."""
    zombies: list[str] = field(default_factory=list)
    """What some of the latest were told after others had taken over."""


def locks(name: str, times: int) -> Figures:
    """Lock, and never unlock: time and memory stay flat, and a zombie is told so."""
    store, figures = named(name), Figures(times)
    memory, worker = store.memory, Worker(store.memory)
    ids = [f"machine {number}" for number in range(times)]
    for id in ids:
        worker.write(id, STATE)
    gc.collect()
    before = _leases()
    tracemalloc.start()
    moments = [time.perf_counter()]
    for id in ids:
        if not memory.lock(id, ttl=3600):
            raise RuntimeError(id)
        moments.append(time.perf_counter())
    gc.collect()
    figures.kilobytes = round(tracemalloc.get_traced_memory()[0] / 1024)
    tracemalloc.stop()
    figures.remembered = _leases() - before
    taken = [1e6 * (later - earlier) for earlier, later in pairwise(moments)]
    figures.early, figures.late = statistics.median(taken[:EARLY]), statistics.median(taken[-EARLY:])
    for id in (ids[-1000], ids[-500], ids[-1]):
        store.expire(id)
        worker.lock(id)
        try:
            memory.write(id, {})
        except LeaseError as error:
            figures.zombies.append(type(error).__name__)
    return figures


def _leases() -> int:
    return sum(isinstance(found, Lease) for found in gc.get_objects())
