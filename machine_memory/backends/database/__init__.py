"""The store in a Django database, and all that only it knows: nothing here is asked of another store."""

from collections.abc import Mapping
from typing import Any

from django.db import DEFAULT_DB_ALIAS

from machine_memory.backends.database.store import DatabaseStore
from machine_memory.core import validation
from machine_memory.core.memory import BaseMachineMemory


class DatabaseMachineMemory(BaseMachineMemory[Mapping[str, Any]]):
    """Keep machines in the database ``using``, one row each; everything is read from and written to that alias.

    ``one_statement=False``: take every step in the form of the ORM, as where the database has no other.
    """

    def __init__(self, *, using: str = DEFAULT_DB_ALIAS, one_statement: bool = True, **options: Any) -> None:
        one_statement = validation.option(one_statement, "one_statement", bool)
        super().__init__(DatabaseStore(using, one_statement=one_statement), **options)
