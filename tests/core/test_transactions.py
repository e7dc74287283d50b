"""What is written elsewhere inside a transaction of the caller's stays when that is rolled back: it is told once."""

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import Group
from django.db import transaction

from machine_memory import BaseMachineMemory, LockLost, SimpleMachineMemory
from tests.conftest import needs
from tests.contract.stores import Store

ELSEWHERE = [
    pytest.param(
        name,
        marks=[
            pytest.mark.django_db(transaction=True, databases=["default", *databases]),
            needs(name),
        ],
    )
    for name, databases in {"simple": [], "postgresql": ["postgresql"], "redis": []}.items()
]
"""Stores that are not in the database of the caller's own rows."""


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "rolled back" in record.getMessage()]


def write(memory: BaseMachineMemory) -> None:
    memory.write("a", {})


def commit(memory: BaseMachineMemory) -> None:
    with memory.lease("a") as lease:
        lease.commit({})


def commit_many(memory: BaseMachineMemory) -> None:
    with memory.leases([*"abc"]) as batch:
        batch.commit({id: {} for id in "abc"})


def cleanup(memory: BaseMachineMemory) -> None:
    memory.cleanup("a")


@async_to_sync
async def commit_as_a_task(memory: BaseMachineMemory) -> None:
    async with memory.alease("a") as lease:
        await lease.acommit({})


@async_to_sync
async def commit_many_as_a_task(memory: BaseMachineMemory) -> None:
    async with memory.aleases([*"abc"]) as batch:
        await batch.acommit({id: {} for id in "abc"})


WAYS: list[Callable[[BaseMachineMemory], None]] = [write, commit, commit_many, cleanup]
AS_TASKS: list[Callable[[BaseMachineMemory], None]] = [commit_as_a_task, commit_many_as_a_task]


@pytest.mark.parametrize("store", ELSEWHERE, indirect=True)
class TestElsewhere:
    @pytest.mark.parametrize("change", WAYS)
    def test_it_is_told_once(self, store: Store, change: Any, caplog: pytest.LogCaptureFixture) -> None:
        memory = store.memory
        with transaction.atomic():
            for _ in range(2):
                change(memory)

        assert told(caplog) == [
            f"a write to the memory '-' ({memory.store.place}) inside an open transaction of the database 'default'"
            " stays when that is rolled back. Commit in `transaction.on_commit(lambda: lease.commit(data))`, within the"
            " block of the lease; or keep the memory in that database, where both are committed together. This is told"
            " once."
        ]
        (record,) = [record for record in caplog.records if record.stack_info]
        assert (record.levelno, record.name) == (logging.WARNING, "machine_memory")
        assert f"in {change.__name__}\n" in str(record.stack_info)

    def test_nothing_is_told_outside_of_a_transaction(self, store: Store, caplog: pytest.LogCaptureFixture) -> None:
        with transaction.atomic():
            pass
        for change in WAYS + AS_TASKS:
            change(store.memory)
        assert told(caplog) == []

    def test_nor_of_what_writes_no_state(self, store: Store, caplog: pytest.LogCaptureFixture) -> None:
        with transaction.atomic(), store.memory.lease("a"):
            store.memory.read("a")
        assert told(caplog) == []

    def test_what_is_committed_once_the_rows_are_is_committed_with_them(
        self, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        with store.memory.lease("a") as lease:
            with transaction.atomic():
                Group.objects.create(name="paid")
                transaction.on_commit(lambda: lease.commit({"status": "paid"}))
            assert store.memory.holder("a") is None
        assert store.memory.read("a") == {"status": "paid"}
        assert told(caplog) == []

    def test_and_not_where_they_are_rolled_back(self, store: Store) -> None:
        with store.memory.lease("a") as lease:
            with pytest.raises(ZeroDivisionError), transaction.atomic():
                transaction.on_commit(lambda: lease.commit({"status": "paid"}))
                raise ZeroDivisionError
            assert store.memory.holder("a") is not None
        assert store.memory.read("a") is None
        assert store.memory.holder("a") is None

    def test_it_is_refused_where_the_transaction_outlived_the_lease(self, store: Store) -> None:
        with pytest.raises(LockLost, match="was released"), transaction.atomic(), store.memory.lease("a") as lease:
            transaction.on_commit(lambda: lease.commit({"status": "paid"}))


@pytest.mark.parametrize("store", ELSEWHERE[1:], indirect=True)
@pytest.mark.parametrize("change", AS_TASKS)
def test_tasks_of_a_caller_with_a_transaction_are_told(
    store: Store, change: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with transaction.atomic():
        change(store.memory)
    assert len(told(caplog)) == 1


def test_what_joins_the_transaction_is_not_worth_a_word(database: Store, caplog: pytest.LogCaptureFixture) -> None:
    with transaction.atomic(using=database.alias):
        database.memory.write("a", {})
    assert told(caplog) == []


@pytest.mark.django_db
class TestWithinTheTransactionOfATestCase:
    def test_it_goes_unnoticed(self, caplog: pytest.LogCaptureFixture) -> None:
        SimpleMachineMemory().write("a", {})
        assert told(caplog) == []

    def test_one_within_it_does_not(self, caplog: pytest.LogCaptureFixture) -> None:
        with transaction.atomic():
            SimpleMachineMemory().write("a", {})
        assert len(told(caplog)) == 1


@pytest.mark.django_db(transaction=True)
def test_each_memory_has_its_own_say(caplog: pytest.LogCaptureFixture) -> None:
    memories = SimpleMachineMemory(), SimpleMachineMemory()
    with transaction.atomic():
        for memory in memories * 2:
            memory.write("a", {})
    assert len(told(caplog)) == 2


def test_where_django_is_not_set_up_there_is_none() -> None:
    code = "from machine_memory import SimpleMachineMemory; assert SimpleMachineMemory().write('a', {}) == 1"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PATH": ""}, cwd=Path(__file__).parents[2])
