"""A batch of rows in one short transaction, repeated where that was given up for another one."""

from collections.abc import Callable
from typing import TypeVar

from django.db import Error, connections

from machine_memory.backends.database.contention import is_undone
from machine_memory.backends.database.queries import MachineQuerySet
from machine_memory.backends.database.transactions import in_transaction

T = TypeVar("T")
REPEATS = 5
"""A cluster gives up each transaction that meets another one which was committed elsewhere."""


def done(machines: MachineQuerySet, batch: Callable[[], T], *undone: type[Error]) -> T:
    """Do a batch in a transaction, and return what it does. ``undone``: what else it is repeated after."""
    left = 0 if in_transaction(connections[machines.db]) else REPEATS
    while True:
        try:
            with machines.keeping():
                return batch()
        except Error as error:
            if not (left and (is_undone(error) or isinstance(error, undone))):
                raise
            left -= 1
