"""Transactions: the caller's, which some steps may join, and the package's own, none of which stays open."""

from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from machine_memory.core.transactions import is_of_a_test
from machine_memory.core.validation import quoted
from machine_memory.exceptions import LockInTransaction


class JoinedTransaction:
    """A transaction of the caller's, or the savepoint in it, that a step has joined."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self._connection = connection
        self._savepoints = tuple(connection.savepoint_ids)
        self._is_committed = False
        connection.on_commit(self._commit)
        if not any(getattr(block, "_from_testcase", False) for block in connection.atomic_blocks):
            # Before the hooks of others, which may ask for it, or raise. A TestCase counts them by their places.
            connection.run_on_commit.insert(0, connection.run_on_commit.pop())

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


class _Nesting(NamedTuple):
    """What a connection is in the middle of."""

    in_transaction: bool
    in_block: bool
    savepoints: int
    blocks: int


_callers: "WeakKeyDictionary[Any, _Nesting]" = WeakKeyDictionary()
"""What is the caller's where a connection is in an ``Atomic``, or was when an exception kept that from its end."""


class Atomic:
    """``atomic()`` for a step. A signal handler may raise within Django's own exit: ``undo`` ends what then stays."""

    def __init__(self, using: str, *, savepoint: bool = True) -> None:
        self._connection: Any = connections[using]
        self._atomic = transaction.Atomic(using, savepoint, False)

    def __enter__(self) -> None:
        before = _callers.get(self._connection)
        self._is_outermost = before is None or not in_transaction(self._connection)
        if self._is_outermost:
            _callers[self._connection] = _nesting(self._connection)
        self._here = _callers[self._connection]
        self._atomic.__enter__()

    def __exit__(self, *error: Any) -> None:
        if _callers.get(self._connection) is not self._here:
            return  # It is undone, and what is open by now is not its own.
        try:
            self._atomic.__exit__(*error)
        finally:
            if self._is_outermost:
                undo(self._connection)


def _nesting(connection: Any) -> _Nesting:
    depths = len(connection.savepoint_ids), len(connection.atomic_blocks)
    return _Nesting(in_transaction(connection), connection.in_atomic_block, *depths)


def undo(connection: Any) -> None:
    """Leave the connection in the caller's transaction, if there is one, and in no other."""
    callers = _callers.pop(connection, None)
    if callers is None or callers == _nesting(connection):
        return
    del connection.savepoint_ids[callers.savepoints :]
    del connection.atomic_blocks[callers.blocks :]
    connection.in_atomic_block = callers.in_block
    if not callers.in_transaction:
        connection.closed_in_transaction = False
        connection.close()


def in_transaction(connection: BaseDatabaseWrapper) -> bool:
    return connection.in_atomic_block or (connection.connection is not None and not connection.autocommit)


def refuse(connection: BaseDatabaseWrapper, what: str, id: str) -> None:
    if connection.get_autocommit() or is_of_a_test(connection):
        return
    raise LockInTransaction(
        f"{what} {quoted(id)} inside an open transaction of the database {connection.alias!r} is refused: nobody else"
        " would see the lease before the commit, and a rollback would end it unnoticed. Lock outside of the"
        " transaction, exempt the view from ATOMIC_REQUESTS with `transaction.non_atomic_requests`, or give the memory"
        " a second alias of the same database as `using`."
    )
