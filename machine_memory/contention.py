"""How long a statement waits for others, and what the errors of the databases mean."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from django.db import Error, InterfaceError, OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper

from machine_memory import sql

# SQLSTATEs of PostgreSQL, numbers of MySQL and MariaDB, names of SQLite; a beginning stands for all that share it.
CONTENTION = ("40001", "40P01", "55P03", "1020", "1205", "1213", "SQLITE_BUSY", "SQLITE_LOCKED")
TRANSIENT = (
    *("08", "57", "53300"),
    *("1040", "1053", "1317", "1927", "1969", "2002", "2003", "2006", "2013", "2055", "3024"),
    *("SQLITE_IOERR", "SQLITE_CANTOPEN"),
)


BRIEFLY = 0.05
"""Seconds that the keeper waits where it cannot pass a row over: others wait for it meanwhile."""


def is_contention(error: Error) -> bool:
    """Say whether another transaction, and nothing else, stood in the way."""
    return isinstance(error, OperationalError) and _code(error).startswith(CONTENTION)


def is_transient(error: Error) -> bool:
    """Say whether the same statement may succeed a moment later."""
    if isinstance(error, OperationalError):
        code = _code(error)
        return not code or code.startswith(CONTENTION + TRANSIENT)
    return isinstance(error, InterfaceError)


def _code(error: Error) -> str:
    """Return the database's own code for ``error``; empty where no answer came."""
    cause = error.__cause__
    codes = (getattr(cause, name, None) for name in ("sqlstate", "pgcode", "sqlite_errorname"))  # pgcode: psycopg 2's.
    code = next(filter(None, codes), None)
    if code is None and cause is not None and cause.args and isinstance(cause.args[0], int):
        code = cause.args[0]
    return str(code or "")


class _BoundedSQLite:
    """Bounds the wait of one connection; no generator, which would outlive a signal, and the connection."""

    def __init__(self, connection: BaseDatabaseWrapper, seconds: float) -> None:
        connection.ensure_connection()
        self._execute = connection.connection.execute  # The driver's own: a pragma is no statement on the database.
        self._seconds = seconds

    def __enter__(self) -> None:
        (self._before,) = self._execute("PRAGMA busy_timeout").fetchone()
        self._execute(sql.BOUND_WAIT_SQLITE.format(self._seconds * 1000))

    def __exit__(self, *error: object) -> None:
        self._execute(f"PRAGMA busy_timeout = {self._before}")


def bounded_wait(connection: BaseDatabaseWrapper, seconds: float = sql.LOCK_WAIT) -> AbstractContextManager[None]:
    """Bound how long the statements within wait for another transaction; on MySQL its own setting does, 50 s."""
    if connection.vendor == "sqlite":
        return _BoundedSQLite(connection, seconds)
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT {sql.BOUND_WAIT}")
    elif getattr(connection, "mysql_is_mariadb", False):
        return connection.execute_wrapper(_without_waiting)
    return nullcontext()


def passing_over(connection: BaseDatabaseWrapper) -> AbstractContextManager[None]:
    """Bound the wait where no row can be passed over."""
    return bounded_wait(connection, BRIEFLY) if connection.vendor == "sqlite" else nullcontext()


def _without_waiting(execute: Callable[..., Any], query: str, *args: Any) -> Any:
    return execute(sql.WITHOUT_WAITING + query, *args)
