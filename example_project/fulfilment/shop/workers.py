"""Workers that hold orders: most until they are told to stop, and some that die and leave their lease behind."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from django.db import connection

from machine_memory import BaseMachineMemory, LockLost

SCAN = 2.0
"""Seconds that a worker takes for an article."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """What one worker does."""

    worker: str
    order: str
    ttl: float
    dies: bool = False


SHIFTS = [
    Shift(worker="packer-1", order="express-0002", ttl=30),
    Shift(worker="packer-2", order="express-0003", ttl=120),
    Shift(worker="packer-3", order="express-0004/parcel-2", ttl=7200),
    Shift(worker="packer-4", order="express-0005", ttl=1, dies=True),
    Shift(worker="packer-5", order="express-0006", ttl=2, dies=True),
]


@contextmanager
def at_work(memory: BaseMachineMemory, say: Callable[[str], object]) -> Iterator[None]:
    """Let the workers hold their orders until the block ends; ``say``: is told who was evicted."""
    stopped = threading.Event()
    threads = [
        threading.Thread(target=_work, name=shift.worker, args=(shift, memory, stopped, say)) for shift in SHIFTS
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopped.set()
        for thread in threads:
            thread.join()


def _work(shift: Shift, memory: BaseMachineMemory, stopped: threading.Event, say: Callable[[str], object]) -> None:
    try:
        if shift.dies:
            memory.lock(shift.order, ttl=shift.ttl)
        else:
            _pack(shift, memory, stopped)
    except LockLost as refusal:
        say(f"{shift.worker}: {refusal}")
    finally:
        connection.close()


def _pack(shift: Shift, memory: BaseMachineMemory, stopped: threading.Event) -> None:
    with memory.lease(shift.order, ttl=shift.ttl, keep_alive=True) as lease:
        while not stopped.wait(SCAN):
            lease.write({**lease.data, "scanned": lease.data["scanned"] + 1})
