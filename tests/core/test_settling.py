"""What a lease and a batch know of a transaction of the caller's that their steps have joined."""

import contextlib
from collections.abc import Iterator

import pytest
from django.db import transaction
from django.test import TestCase

from machine_memory import CommitRefused, Lease, VersionConflict, memory
from tests.conftest import Worker
from tests.database.store import DatabaseStore

ALL = [*"abc"]


@pytest.fixture
def lease(database: DatabaseStore) -> Iterator[Lease]:
    database.memory.write("a", {"n": 1})
    with database.memory.lease("a") as lease:
        yield lease


def test_the_version_is_checked_after_a_commit_too(database: DatabaseStore, lease: Lease) -> None:
    text = lease.detach()
    with database.memory.attach(text) as here:
        with transaction.atomic(using=database.alias):
            here.write({"n": 2})
        with database.memory.attach(text) as there:
            assert there.write({"n": 3}) == 3
            there.detach()
        with pytest.raises(VersionConflict, match="'a' is at version 3, not 2"):
            here.write({"n": 4})
    assert database.memory.read("a") == {"n": 3}


def test_a_hook_that_was_registered_before_a_step_sees_what_it_stored(database: DatabaseStore, lease: Lease) -> None:
    with transaction.atomic(using=database.alias):
        transaction.on_commit(lambda: lease.commit({"n": lease.data["n"] + 1}), using=database.alias)
        lease.write({"n": 11})
    assert database.memory.read("a") == {"n": 12}


def test_a_hook_that_raises_takes_nothing_back(database: DatabaseStore, lease: Lease) -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic(using=database.alias):
        transaction.on_commit(lambda: 1 / 0, using=database.alias)
        lease.write({"n": 2})
    assert (lease.data, lease.version) == ({"n": 2}, 2)
    assert lease.write({"n": 3}) == 3


class TestABatch:
    def test_says_of_nothing_that_was_rolled_back_that_it_is_committed(self, database: DatabaseStore) -> None:
        with database.memory.leases(ALL) as batch:
            Worker(database.memory).force_unlock("b")
            with contextlib.suppress(CommitRefused), transaction.atomic(using=database.alias):
                batch.commit({id: {} for id in ALL})
            assert (batch.committed, list(batch.refused)) == ({}, ["b"])
            assert database.memory.read("a") is None
            assert batch.commit({"a": {"n": 1}}) == {"a": 1}
            assert batch.committed == {"a": 1}

    def test_says_of_what_was_committed_that_it_is(self, database: DatabaseStore) -> None:
        with database.memory.leases(ALL) as batch:
            with transaction.atomic(using=database.alias):
                batch.commit({id: {} for id in ALL})
                assert batch.committed == {"a": 1, "b": 1, "c": 1}
            assert batch.committed == {"a": 1, "b": 1, "c": 1}


@pytest.mark.django_db
class TestWithinATestCase:
    def test_the_hooks_that_it_captures_are_the_hosts(self) -> None:
        called: list[str] = []
        transaction.on_commit(lambda: called.append("before"))
        with memory.lease("a") as lease:
            with TestCase.captureOnCommitCallbacks(execute=True) as captured, transaction.atomic():
                lease.write({"n": 1})
                transaction.on_commit(lambda: called.append("within"))
            assert called == ["within"]
            assert len(captured) == 2
            assert lease.version == 1
