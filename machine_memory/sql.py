"""What differs between the databases: their clocks, how long they wait for a row, and what their errors mean."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any

from django.db import Error, InterfaceError, OperationalError, models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.sql.compiler import SQLCompiler
from django.utils import timezone

Compiled = tuple[str, tuple[Any, ...]]

LOCK_WAIT = 0.5
"""Seconds for which ``lock`` waits where it cannot skip the row: on SQLite, and on PostgreSQL to insert it."""

# SQLSTATEs of PostgreSQL, numbers of MySQL and MariaDB, names of SQLite; a beginning stands for all that share it.
CONTENTION = ("40001", "40P01", "55P03", "1020", "1205", "1213", "SQLITE_BUSY", "SQLITE_LOCKED")
TRANSIENT = (
    *("08", "57", "53300"),
    *("1040", "1053", "1317", "1927", "1969", "2002", "2003", "2006", "2013", "2055", "3024"),
    *("SQLITE_IOERR", "SQLITE_CANTOPEN"),
)


class StoreTime(models.Func):
    """The database's own time in UTC at this statement, ``offset`` seconds later.

    Not ``Now()``: on MySQL and MariaDB that is the session's wall time. Never ``CURRENT_TIMESTAMP``: on PostgreSQL that
    is the time at which the transaction began.
    """

    output_field = models.DateTimeField()

    def __init__(self, offset: float = 0.0) -> None:
        self.offset = offset
        super().__init__()

    def as_postgresql(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **context: Any) -> Compiled:
        if not self.offset:
            return "STATEMENT_TIMESTAMP()", ()
        return "(STATEMENT_TIMESTAMP() + make_interval(secs => %s))", (self.offset,)

    def as_mysql(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **context: Any) -> Compiled:
        if not self.offset:
            return "UTC_TIMESTAMP(6)", ()
        return "(UTC_TIMESTAMP(6) + INTERVAL %s MICROSECOND)", (round(self.offset * 1_000_000),)

    def as_sqlite(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **context: Any) -> Compiled:
        return "strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now', %s)", (f"{self.offset:+.3f} seconds",)


class FirstFence(models.Func):
    """Where the fences of a new row begin: at the database's time in microseconds.

    So they go on growing where an earlier row of the same id was deleted, without anything to remember it by.
    """

    output_field = models.BigIntegerField()

    def as_postgresql(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **context: Any) -> Compiled:
        return "(EXTRACT(EPOCH FROM CLOCK_TIMESTAMP()) * 1000000)::bigint", ()

    def as_mysql(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **context: Any) -> Compiled:
        return "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))", ()

    def as_sqlite(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **context: Any) -> Compiled:
        # SQLite's clock is this host's, but tells milliseconds alone: too coarse for two rows in a row.
        return "%s", (time.time_ns() // 1000,)


def as_utc(value: datetime, connection: BaseDatabaseWrapper) -> datetime:
    """Return a column's time in UTC, whatever ``USE_TZ`` and ``TIME_ZONE`` made of it on the way."""
    if connection.vendor != "postgresql":
        return value.replace(tzinfo=UTC)
    if timezone.is_naive(value):
        value = timezone.make_aware(value, connection.timezone)
    return value.astimezone(UTC)


@contextmanager
def bounded_wait(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """Bound how long the statements within wait for another transaction; on MySQL its own setting does, 50 s."""
    with ExitStack() as undo:
        if connection.vendor == "sqlite":
            before = _fetch(connection, "PRAGMA busy_timeout")
            _fetch(connection, f"PRAGMA busy_timeout = {LOCK_WAIT * 1000:.0f}")
            undo.callback(_fetch, connection, f"PRAGMA busy_timeout = {before}")
        elif connection.vendor == "postgresql":
            _fetch(connection, f"SELECT set_config('lock_timeout', '{LOCK_WAIT}s', true)")  # Ends with the transaction.
        elif getattr(connection, "mysql_is_mariadb", False):
            undo.enter_context(connection.execute_wrapper(_without_waiting))
        yield


def _fetch(connection: BaseDatabaseWrapper, query: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchone()[0]


def _without_waiting(execute: Callable[..., Any], query: str, *args: Any) -> Any:
    return execute(f"SET STATEMENT innodb_lock_wait_timeout = 0 FOR {query}", *args)


def is_contention(error: Error) -> bool:
    """Say whether another transaction, and nothing else, stood in the way."""
    return _code(error).startswith(CONTENTION)


def is_transient(error: Error) -> bool:
    """Say whether the same statement may succeed a moment later."""
    if isinstance(error, OperationalError):
        code = _code(error)
        return not code or code.startswith(CONTENTION + TRANSIENT)
    return isinstance(error, InterfaceError)


def _code(error: Error) -> str:
    """Return the database's own code for ``error``; empty where no answer came."""
    cause = error.__cause__
    code = getattr(cause, "sqlstate", None) or getattr(cause, "sqlite_errorname", None)
    if code is None and cause is not None and cause.args and isinstance(cause.args[0], int):
        code = cause.args[0]
    return str(code or "")
