"""The stores that are compared: the databases, and Redis."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from benchmarks import databases, redis_store
from machine_memory import BaseMachineMemory, DatabaseMachineMemory

REDIS = "redis"
NAMES = {**databases.NAMES, REDIS: "Redis"}


def available() -> list[str]:
    return [*databases.available(), *([] if redis_store.missing() else [REDIS])]


@contextmanager
def scratch(*names: str) -> Iterator[None]:
    """Have nothing in the stores, until the block ends."""
    aliases = [name for name in names if name != REDIS]
    with databases.scratch(*aliases), redis_store.scratch() if REDIS in names else nullcontext():
        yield


def fill(name: str, count: int) -> None:
    """Insert ``count`` machines with the usual state, before anybody else connects."""
    if name == REDIS:
        redis_store.fill(count)
    else:
        databases.fill(name, count)


def memory(name: str) -> BaseMachineMemory:
    return redis_store.memory() if name == REDIS else DatabaseMachineMemory(using=name)
