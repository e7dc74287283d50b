"""How long a statement waits for others, and what the errors of the databases mean."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from django.db import Error, InterfaceError, OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper

from machine_memory.backends.database import sql

# SQLSTATEs of PostgreSQL, numbers of MySQL and MariaDB, names of SQLite; a beginning stands for all that share it.
UNDONE = ("40001", "40P01", "1020", "1213", "3101")
WAITED = ("55P03", "1205", "SQLITE_BUSY", "SQLITE_LOCKED")
UNREADY = "1047"
"""Of a node that is cut off from its cluster: it has done nothing, and takes nothing until it is back."""
IDLE = ("25006", UNREADY, "1290", "1792", "1836")
"""Of a server that takes no writes, as a replica does; its sessions live on."""
TRANSIENT = (
    *("08", "57", "53300"),
    *("1040", UNREADY, "1053", "1317", "1927", "1969", "2002", "2003", "2006", "2013", "2055", "3024"),
    *("SQLITE_IOERR", "SQLITE_CANTOPEN"),
)
FAILED_COMMIT, CERTIFICATION = "1180", "Got error 149"
"""Of a node of a cluster, which may not know what the others made of it; its text says so where they refused."""
MALFORMED = "2027"
"""An answer that ends with what is none, as a node's does that had to apply its own transaction anew."""


BRIEFLY = 0.05
"""Seconds that the keeper waits where it cannot pass a row over: others wait for it meanwhile."""


def is_contention(error: Error) -> bool:
    """Say whether another transaction, and nothing else, stood in the way."""
    return is_undone(error) or (isinstance(error, OperationalError) and _code(error).startswith(WAITED))


def is_undone(error: Error) -> bool:
    """Say whether the transaction was given up for another one, as by a deadlock, and can be begun anew at once."""
    if not isinstance(error, OperationalError):
        return False
    return _code(error).startswith(UNDONE) or (_is_failed_commit(error) and CERTIFICATION in str(error))


def is_unknown(error: Error) -> bool:
    """Say whether the answer of the server does not tell what has become of the statement."""
    return _code(error) == MALFORMED or (_is_failed_commit(error) and not is_undone(error))


def is_refused(error: Error) -> bool:
    """Say whether the server did nothing at all, though its session may be of no more use."""
    return _code(error) == UNREADY


def is_idle(error: Exception) -> bool:
    """Say whether every other write would be refused, too."""
    return isinstance(error, Error) and _code(error).startswith(IDLE)


def is_transient(error: Error) -> bool:
    """Say whether the same statement may succeed a moment later."""
    if isinstance(error, OperationalError):
        code = _code(error)
        return not code or is_contention(error) or code.startswith(TRANSIENT)
    return isinstance(error, InterfaceError)


def _is_failed_commit(error: Error) -> bool:
    return _code(error) == FAILED_COMMIT


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
        self._connection = connection
        self._session = connection.connection  # The driver's own: a pragma is no statement on the database.
        self._seconds = seconds

    def __enter__(self) -> None:
        (self._before,) = self._session.execute("PRAGMA busy_timeout").fetchone()
        self._session.execute(sql.BOUND_WAIT_SQLITE.format(self._seconds * 1000))

    def __exit__(self, *error: object) -> None:
        if self._connection.connection is self._session:  # One that was dropped meanwhile has no setting.
            self._session.execute(f"PRAGMA busy_timeout = {self._before}")


def bounded_wait(connection: BaseDatabaseWrapper, seconds: float = sql.LOCK_WAIT) -> AbstractContextManager[None]:
    """Bound how long the statements within wait for another transaction; on MySQL its own setting does, 50 s."""
    if connection.vendor == "sqlite":
        return _BoundedSQLite(connection, seconds)
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT {sql.BOUND_WAIT}", {"wait": sql.WAITS["lock"]})
    elif getattr(connection, "mysql_is_mariadb", False):
        return connection.execute_wrapper(_without_waiting)
    return nullcontext()


def passing_over(connection: BaseDatabaseWrapper) -> AbstractContextManager[None]:
    """Bound the wait where rows cannot be passed over: those of a small table, too, which MariaDB goes through."""
    return nullcontext() if connection.vendor == "postgresql" else bounded_wait(connection, BRIEFLY)


def by_key(connection: BaseDatabaseWrapper, table: str) -> AbstractContextManager[None]:
    """Have MySQL and MariaDB find rows by the keys that the statements within name.

    Where those are of much of the table they would go through all of it, and wait for whoever works on any other row.
    """
    if connection.vendor != "mysql":
        return nullcontext()
    return connection.execute_wrapper(partial(_by_key, connection.ops.quote_name(table)))


def _by_key(table: str, execute: Callable[..., Any], query: str, *args: Any) -> Any:
    for text, forced in sql.BY_KEY.items():
        query = query.replace(text.format(table=table), forced.format(table=table))
    return execute(query, *args)


def _without_waiting(execute: Callable[..., Any], query: str, *args: Any) -> Any:
    return execute(sql.WITHOUT_WAITING + query, *args)


_known: dict[tuple[str, str], dict[str, str]] = {}
"""By the alias and the version of a server, so that it is asked once."""


def of_cluster(connection: Any) -> dict[str, str]:
    """Return what a MariaDB has of the settings of Galera's clusters: all of them, also where it is in none."""
    key = (connection.alias, connection.mysql_server_info)
    if key not in _known:
        with connection.cursor() as cursor:
            cursor.execute(sql.OF_CLUSTER)
            _known[key] = dict(cursor.fetchall())
    return _known[key]
