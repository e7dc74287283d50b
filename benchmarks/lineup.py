"""Who competes on which store: this package first, its raw driver second."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Context
from itertools import islice
from typing import Any

from benchmarks import databases, raw
from benchmarks.contestants import ORM_FORM, Memory, Verbs
from benchmarks.mutex import RawDict
from machine_memory import DatabaseMachineMemory, SimpleMachineMemory

HELD = 9
"""So many machines of ``databases.held_ids`` are under somebody else's lease."""


@contextmanager
def on_database(alias: str, state: dict[str, Any], *, orm_form: bool = True) -> Iterator[list[Verbs]]:
    memory = Memory(DatabaseMachineMemory(using=alias), state)
    drivers = raw.drivers(alias, state)
    try:
        form = Memory(DatabaseMachineMemory(using=alias, one_statement=False), state, ORM_FORM)
        yield [memory, *drivers, *([form] if orm_form else [])]
    finally:
        for driver in drivers:
            driver.close()


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
