"""The numbers of leases: how they go on growing where what was counted is lost."""

import time
from typing import Any

from django.db import connections, models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.sql.compiler import SQLCompiler

from machine_memory.backends.database import sql


class FenceClock(models.Func):
    """The least that the fence of a new lease may be."""

    output_field = models.BigIntegerField()
    texts = sql.FENCE_CLOCK

    def as_sql(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, *args: Any, **context: Any) -> Any:
        params = (host_microseconds(),) if connection.vendor == "sqlite" else ()
        return self.texts[connection.vendor].format("%s"), params


class FirstFence(FenceClock):
    """Where the fences of a new row begin."""

    texts = sql.FIRST_FENCE


class CopiedFence(FenceClock):
    """The fence that a new row brings along; never lower than SQLite's kept one."""

    def __init__(self, fence: int) -> None:
        self.fence = fence
        super().__init__()

    def as_sql(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, *args: Any, **context: Any) -> Any:
        text = sql.COPIED_FENCE if connection.vendor == "sqlite" else "{}"
        return text.format("%s"), (self.fence,)


def host_microseconds() -> int:
    """Return the parameter of SQLite's ``sql.FENCE_CLOCK``."""
    return time.time_ns() // 1000


def keep_fences_of_removed(using: str, **event: Any) -> None:
    """Let SQLite keep the highest fence of the rows that are deleted: its clock is a host's, and may be set back.

    Done after every ``migrate``, also where tables are made without migrations, and where one is made anew, which
    loses its triggers.
    """
    connection = connections[using]
    if connection.vendor != "sqlite":
        return
    machines = "machine_memory_machinerecord" in connection.introspection.table_names()
    statements = sql.KEEP_FENCES if machines else sql.FORGET_FENCES
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
