"""What a process of its own does with batches, and with what is due."""

import random
import time
from dataclasses import dataclass

from machine_memory import memories

IDS = [f"order-{number:02}" for number in range(30)]


@dataclass
class Figures:
    committed: int = 0
    """Machines, each counted as often as it was."""
    denied: int = 0


def count(alias: str, seconds: float) -> Figures:
    """Add one to machines again and again, many in each batch and in any order, some of them absent at first."""
    memory, figures = memories[alias], Figures()
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        with memory.leases(random.sample(IDS, 20), ttl=30) as batch:
            batch.commit({lease.id: {"n": (lease.data or {"n": 0})["n"] + 1} for lease in batch})
        figures.committed += len(batch.committed)
        figures.denied += len(batch.denied)
    return figures


def drain(alias: str) -> int:
    """Claim and commit what is due until nothing is, and return how many machines that were."""
    memory, done = memories[alias], 0
    while True:
        with memory.claim(10, ttl=30) as batch:
            if not len(batch):
                return done
            done += len(batch.commit({lease.id: {"n": lease.data["n"] + 1} for lease in batch}))
