"""What in the settings of a database does not go with leases."""

from collections.abc import Iterator

from django.core.checks import CheckMessage
from django.db.backends.base.base import BaseDatabaseWrapper

from machine_memory.core.store import problem
from machine_memory.core.validation import quoted
from machine_memory.exceptions import InvalidConfiguration

READ_COMMITTED = "read committed"
"""The isolation that Django asks MySQL and MariaDB for, unless its OPTIONS say otherwise."""


def settings(connection: BaseDatabaseWrapper) -> Iterator[CheckMessage]:
    using, given = connection.alias, connection.settings_dict
    if not given["AUTOCOMMIT"]:
        yield problem(
            "E201",
            f"The database {using!r} has AUTOCOMMIT off: a transaction is always open, and every lock is refused.",
            "Leave AUTOCOMMIT on, or give the memory an alias of the same database where it is, as `using`.",
        )
    if given["ATOMIC_REQUESTS"]:
        yield problem(
            "W201",
            f"The database {using!r} has ATOMIC_REQUESTS on: inside a view, every lock is refused with"
            " LockInTransaction.",
            "Exempt the views that lock with transaction.non_atomic_requests, or give the memory a second alias of the"
            " same database, without ATOMIC_REQUESTS, as `using`.",
        )
    level = given["OPTIONS"].get("isolation_level", READ_COMMITTED)
    if connection.vendor == "mysql" and str(level).lower() != READ_COMMITTED:
        yield problem(
            "W203",
            f"The isolation_level of the database {using!r} is {quoted(level)}: two that lock absent machines can"
            " deadlock, and inside a transaction of yours what others did since its first query is not seen: a write"
            " that they would have refused is a WriteError, and unlock and cleanup may say True.",
            'Set "isolation_level": "read committed" in the OPTIONS of the database, or leave it out.',
        )


def unknown(connection: BaseDatabaseWrapper) -> InvalidConfiguration:
    """Return what is to be said of a database that no statement is written for."""
    return InvalidConfiguration(
        f"The database {quoted(connection.alias)} is of the kind {quoted(connection.vendor)}, for which nothing is"
        " written here: machines can be kept in PostgreSQL, MySQL, MariaDB and SQLite, through Django's own backends or"
        " those that are built upon them."
    )


def locking(connection: BaseDatabaseWrapper) -> Iterator[CheckMessage]:
    """Yield what only shows under load: what every new project has is not worth a warning before each command."""
    mode = str(connection.settings_dict["OPTIONS"].get("transaction_mode")).upper()
    if connection.vendor == "sqlite" and mode not in ("IMMEDIATE", "EXCLUSIVE"):
        yield problem(
            "W202",
            f"A transaction in the SQLite database {connection.alias!r} begins as a reader: where it writes after"
            ' others have written, it fails at once with "database is locked".',
            'Set "transaction_mode": "IMMEDIATE" in the OPTIONS of the database.',
        )
