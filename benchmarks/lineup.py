"""Who competes on which store: this package first, its raw driver second."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Context
from itertools import islice
from typing import Any

from benchmarks import databases, raw, stores
from benchmarks.contestants import ORM_FORM, PREPARED, Memory, Verbs
from benchmarks.mutex import RawDict
from benchmarks.raw_redis import RawRedis
from machine_memory import DatabaseMachineMemory, SimpleMachineMemory

HELD = 9
"""So many machines of ``databases.held_ids`` are under somebody else's lease."""


@contextmanager
def on_store(name: str, state: dict[str, Any], *, forms: bool = True) -> Iterator[list[Verbs]]:
    """Have the contestants connected; ``forms``: this package in its other forms as well."""
    drivers = [RawRedis(state)] if name == stores.REDIS else raw.drivers(name, state)
    try:
        yield [Memory(stores.memory(name), state), *drivers, *(_forms(name, state) if forms else [])]
    finally:
        for driver in drivers:
            driver.close()


def prepared(name: str, state: dict[str, Any]) -> list[Memory]:
    """Return this package where Django lets psycopg prepare its statements; nothing on another store."""
    if name != "postgresql":
        return []
    return [Memory(DatabaseMachineMemory(using="postgresql-prepared"), state, PREPARED)]


def _forms(name: str, state: dict[str, Any]) -> list[Memory]:
    if name == stores.REDIS:
        return []
    orm_form = Memory(DatabaseMachineMemory(using=name, one_statement=False), state, ORM_FORM)
    return [*prepared(name, state), orm_form]


def in_process(count: int, state: dict[str, Any]) -> list[Verbs]:
    memory, rival = SimpleMachineMemory(), RawDict(state)
    for number in range(count):
        memory.write(databases.machine_id(number), state)
        rival.put(databases.machine_id(number))
    return [Memory(memory, state), rival]


def hold(contestant: Verbs, count: int) -> None:
    """Lock some of ``count`` machines, in a context that is not the one that is measured."""
    for id in islice(databases.held_ids(count), HELD):
        Context().run(contestant.lock, id)
