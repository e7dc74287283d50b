"""The caller's transactions: which steps may join one, and what becomes of those that have."""

from django.db.backends.base.base import BaseDatabaseWrapper

from machine_memory.exceptions import LockInTransaction
from machine_memory.validation import quoted


class JoinedTransaction:
    """A transaction of the caller's, or the savepoint in it, that a step has joined."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self._connection = connection
        self._savepoints = tuple(connection.savepoint_ids)
        self._is_committed = False
        connection.on_commit(self._commit)

    def is_of(self, connection: BaseDatabaseWrapper) -> bool:
        """Say whether what a step does now will be settled with it."""
        here = connection is self._connection and tuple(connection.savepoint_ids) == self._savepoints
        return here and self.committed is None

    @property
    def committed(self) -> bool | None:
        if self._is_committed:
            return True
        # A rollback is told by nothing but this: what should happen after the commit is forgotten.
        is_open = any(hook == self._commit for _, hook, *_ in self._connection.run_on_commit)
        return None if is_open else False

    def _commit(self) -> None:
        self._is_committed = True


def in_transaction(connection: BaseDatabaseWrapper) -> bool:
    return connection.in_atomic_block or (connection.connection is not None and not connection.autocommit)


def is_of_a_test(connection: BaseDatabaseWrapper) -> bool:
    """Say whether a TestCase alone has opened what is open, which does not count, as for Django's own `durable`."""
    blocks = connection.atomic_blocks
    return bool(blocks) and all(getattr(block, "_from_testcase", False) for block in blocks)


def refuse_in_transaction(connection: BaseDatabaseWrapper, what: str, id: str) -> None:
    if connection.get_autocommit() or is_of_a_test(connection):
        return
    raise LockInTransaction(
        f"{what} {quoted(id)} inside an open transaction of the database {connection.alias!r} is refused: nobody else"
        " would see the lease before the commit, and a rollback would end it unnoticed. Lock outside of the"
        " transaction, exempt the view from ATOMIC_REQUESTS with `transaction.non_atomic_requests`, or give the memory"
        " a second alias of the same database as `using`."
    )
