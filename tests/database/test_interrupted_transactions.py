"""A signal handler may raise at any line, those at which Django begins and ends a transaction included."""

import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from types import FrameType
from typing import Any

import pytest
from django.db import connections, transaction
from django.db.backends.base import base

from tests.conftest import databases
from tests.contract.stores import ORM
from tests.core.interrupts import Halt
from tests.database.store import DatabaseStore

LINES, CALLS = transaction.__file__, base.__file__
"""Where each line is one to raise at, and where the first of each function: signals come there, and its locks stay."""


def raises_at(number: int, call: Callable[[], object]) -> bool:
    """Call, raise at this instant of those that deal with transactions, and say whether there are as many."""
    before, left, has_raised = sys.gettrace(), number, False

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal left, has_raised
        file = frame.f_code.co_filename
        if not has_raised and (file, event) in {(LINES, "line"), (CALLS, "call")}:
            left -= 1
            if left < 0:
                has_raised = True
                raise Halt
        return trace if file == LINES else None

    sys.settrace(trace)
    try:
        call()
    except BaseException:
        if not has_raised:  # Over it, Django may have met an error of its own.
            raise
    finally:
        sys.settrace(before)
    return has_raised


stores = pytest.mark.parametrize(
    "database", [*databases("sqlite", "postgresql", forms=(ORM,)), *databases("mariadb", forms=("",))], indirect=True
)
"""Those whose steps take transactions."""


@stores
class TestWhereverAStepIsInterrupted:
    @pytest.mark.timeout(120)
    def test_no_transaction_stays_open_and_no_lease(self, database: DatabaseStore) -> None:
        memory, connection = database.memory, connections[database.alias]

        def cycle() -> None:
            with memory.leases(["a", "b"]) as batch:
                batch.commit({"a": {}, "b": {}})

        for number in count():
            if not raises_at(number, cycle):
                break
            assert (connection.in_atomic_block, connection.get_autocommit()) == (False, True), number
            database.wait_until(lambda: not list(memory.held_locks()))
            memory.write("c", {"n": number})
            with transaction.atomic(using=database.alias):
                memory.write("c", {"n": "undone"})
                transaction.set_rollback(True, using=database.alias)
            assert memory.read("c") == {"n": number}
        assert number > 0

    @pytest.mark.timeout(120)
    def test_that_of_the_caller_is_rolled_back_by_the_caller(self, database: DatabaseStore) -> None:
        memory, connection = database.memory, connections[database.alias]
        memory.write("a", {"n": 0})

        def step() -> bool:
            with transaction.atomic(using=database.alias):
                memory.write("outbox", {})
                if raises_at(number, lambda: batch.write({"a": {"n": 1}, "b": {}})):
                    raise Halt
            return True

        with memory.leases(["a", "b"], ttl=600) as batch:
            for number in count():
                with suppress(Halt):
                    if step():
                        break
                assert (connection.in_atomic_block, connection.get_autocommit()) == (False, True), number
                assert [memory.read(id) for id in ("a", "b", "outbox")] == [{"n": 0}, None, None]
        assert number > 0
        assert memory.read("a") == {"n": 1}
