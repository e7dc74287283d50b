"""How long a statement waits for others, and what the errors of the databases mean."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
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
    code = getattr(cause, "sqlstate", None) or getattr(cause, "sqlite_errorname", None)
    if code is None and cause is not None and cause.args and isinstance(cause.args[0], int):
        code = cause.args[0]
    return str(code or "")


@contextmanager
def bounded_wait(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """Bound how long the statements within wait for another transaction; on MySQL its own setting does, 50 s."""
    with ExitStack() as undo:
        if connection.vendor == "sqlite":
            connection.ensure_connection()
            driver = connection.connection  # Its pragmas are no statements on the database.
            (before,) = driver.execute("PRAGMA busy_timeout").fetchone()
            driver.execute(f"PRAGMA busy_timeout = {sql.LOCK_WAIT * 1000:.0f}")
            undo.callback(driver.execute, f"PRAGMA busy_timeout = {before}")
        elif connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute(f"SELECT {sql.BOUND_WAIT}")
        elif getattr(connection, "mysql_is_mariadb", False):
            undo.enter_context(connection.execute_wrapper(_without_waiting))
        yield


def _without_waiting(execute: Callable[..., Any], query: str, *args: Any) -> Any:
    return execute(sql.WITHOUT_WAITING + query, *args)
