"""How long a statement waits for others, and what the errors of the databases mean."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
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


@contextmanager
def bounded_wait(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """Bound how long the statements within wait for another transaction; on MySQL its own setting does, 50 s."""
    if connection.vendor == "sqlite":
        connection.ensure_connection()
        execute = connection.connection.execute  # The driver's own: a pragma is no statement on the database.
        (before,) = execute("PRAGMA busy_timeout").fetchone()
        execute(sql.BOUND_WAIT_SQLITE)
        try:
            yield
        finally:
            execute(f"PRAGMA busy_timeout = {before}")
    elif connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT {sql.BOUND_WAIT}")
        yield
    else:
        is_mariadb = getattr(connection, "mysql_is_mariadb", False)
        with connection.execute_wrapper(_without_waiting) if is_mariadb else nullcontext():
            yield


def _without_waiting(execute: Callable[..., Any], query: str, *args: Any) -> Any:
    return execute(sql.WITHOUT_WAITING + query, *args)
