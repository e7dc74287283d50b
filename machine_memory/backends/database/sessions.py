"""The session with a server: whether it is worth keeping, and whether it knows what has become of a step."""

import threading
from typing import Any
from weakref import WeakSet

from django.db import DatabaseError, Error
from django.db.backends.base.base import BaseDatabaseWrapper

from machine_memory.backends.database import contention
from machine_memory.backends.database.transactions import in_transaction

UNREPLICATED = "SyncRepWaitForLSN"
"""Where PostgreSQL warns that nobody waited for the replica; the text of that is in the server's language."""
UNREPLICATED_TEXT = "wait for synchronous replication"
"""Of that in English: psycopg 2 tells no more."""
_told = threading.local()
_heard: WeakSet[Any] = WeakSet()


class Unreplicated(DatabaseError):
    """The server stopped waiting for its replica: what was committed is there, and nowhere else."""


def mend(connection: BaseDatabaseWrapper) -> None:
    """Open the connection of this thread; one that has had an error and is broken is closed before."""
    # A healthy one stays, also where CONN_MAX_AGE is 0: opening one costs more than the whole cycle.
    if connection.errors_occurred and connection.connection and not in_transaction(connection):
        if not connection.is_usable():
            connection.close()
        connection.errors_occurred = False
    try:
        connection.close_if_health_check_failed()
        connection.ensure_connection()
    except Error:
        raise
    except BaseException:
        connection.close()  # Half open it would take statements, and commit none.
        raise
    _told.is_unreplicated, _told.notices = False, ()  # Also where the step before was one in another database.
    if connection.vendor == "postgresql":
        _listen(connection.connection)


def leave_idle(connection: Any, failure: Exception) -> None:
    """Close the connection where its server refuses every write: name or proxy may lead to another one by now."""
    if connection.connection is None or not contention.is_idle(failure) or in_transaction(connection):
        return
    if getattr(connection, "pool", None):
        connection.connection.close()  # Else the next to ask would get it from the pool.
    connection.close()


def is_lost(session: object, connection: BaseDatabaseWrapper, failure: Error) -> bool:
    """Say whether nobody can tell what has become of a step that was taken in ``session``."""
    if contention.is_unknown(failure) or isinstance(failure, Unreplicated):
        return True
    if contention.is_refused(failure):
        return False
    # After an error at the end of a transaction Django may have opened another one already.
    return connection.connection is not session or not connection.is_usable()


def refuse_unreplicated() -> None:
    """Raise ``Unreplicated`` where that was said of the step that has just been taken."""
    noted = any(UNREPLICATED_TEXT in notice for notice in getattr(_told, "notices", ()))
    if noted or getattr(_told, "is_unreplicated", False):
        raise Unreplicated("The wait for a replica was cancelled.")


def _listen(session: Any) -> None:
    _told.notices = getattr(session, "notices", ())
    if _told.notices:
        _told.notices.clear()
    if session not in _heard and hasattr(session, "add_notice_handler"):
        session.add_notice_handler(_note)
        _heard.add(session)


def _note(diagnostic: Any) -> None:
    # In the thread that waits for the answer.
    if diagnostic.source_function == UNREPLICATED:
        _told.is_unreplicated = True
