"""The transactions that the caller has open in databases of Django's, whatever store the machines are in."""

from django.conf import settings
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper


def is_of_a_test(connection: BaseDatabaseWrapper) -> bool:
    """Say whether a TestCase alone has opened what is open, which does not count, as for Django's own `durable`."""
    blocks = connection.atomic_blocks
    return bool(blocks) and all(getattr(block, "_from_testcase", False) for block in blocks)


def left_out(database: str | None) -> str | None:
    """Return a database with an open `atomic()` of the caller's, where a step in ``database`` joins none."""
    if not settings.configured or list(connections) == [database]:
        return None  # There is no other connection.
    opened = [connection for connection in connections.all(initialized_only=True) if connection.in_atomic_block]
    aliases = [connection.alias for connection in opened if not is_of_a_test(connection)]
    return aliases[0] if aliases and database not in aliases else None
