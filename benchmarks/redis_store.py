"""Keys of the benchmark's own on a Redis server: deleted afterwards; nothing else there is touched."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from redis import Redis, RedisError

from benchmarks.databases import machine_id
from benchmarks.order import order
from machine_memory import RedisMachineMemory

PREFIX = "machine-memory-bench:"
URL = os.environ.get("MACHINE_MEMORY_REDIS", "redis://127.0.0.1:6379/0")


def client() -> Redis:
    return Redis.from_url(URL, socket_connect_timeout=2)


def memory() -> RedisMachineMemory:
    return RedisMachineMemory(client=client(), key_prefix=PREFIX)


@cache
def missing() -> dict[str, str]:
    """Return why the server is not there, by its name; empty where it is."""
    try:
        with client() as asking:
            asking.ping()
    except RedisError as error:
        return {"redis": f"no server answers ({error})"}
    return {}


@contextmanager
def scratch() -> Iterator[None]:
    """Have no keys, until the block ends."""
    _delete()
    try:
        yield
    finally:
        _delete()


def fill(count: int) -> None:
    """Write ``count`` machines with the usual state."""
    filling, state = memory(), order()
    for number in range(1, count + 1):
        filling.write(machine_id(number), state)


def _delete() -> None:
    with client() as deleting:
        if keys := list(deleting.scan_iter(f"{PREFIX}*", count=1_000)):
            deleting.unlink(*keys)
