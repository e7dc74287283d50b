"""What becomes of many leases where something goes wrong with some of them, or in between."""

import pickle
import threading
from collections.abc import Collection, Mapping
from typing import Any

import pytest

from machine_memory import (
    BaseMachineMemory,
    CommitRefused,
    InvalidData,
    LockError,
    LockLost,
    MachineMemoryError,
    SimpleMachineMemory,
    exceptions,
)
from machine_memory.backends.simple import SimpleStore
from machine_memory.core.keeper import keeper
from machine_memory.core.records import Change, Grant, LeaseRef
from machine_memory.core.store import UnknownGrant
from tests.conftest import asynchronous

ALL = [*"abc"]
ERRORS = [kind for kind in vars(exceptions).values() if isinstance(kind, type) and issubclass(kind, MachineMemoryError)]


class OneByOne(SimpleStore):
    """A store that takes one machine at a time, and fails at the second where it is to."""

    batch = 1
    failing: BaseException | None = None

    def acquire_each(self, asked: Mapping[str, str], *, owner: str, ttl: float, trace: str | None) -> dict[str, Grant]:
        if self.failing and "b" in asked.values():
            raise self.failing
        return super().acquire_each(asked, owner=owner, ttl=ttl, trace=trace)

    def write(self, change: Change) -> int:
        if self.failing and change.id == "b":
            raise self.failing
        return super().write(change)


@pytest.fixture
def store() -> OneByOne:
    return OneByOne()


@pytest.fixture
def memory(store: OneByOne) -> BaseMachineMemory:
    return BaseMachineMemory(store)


def is_free(memory: BaseMachineMemory, ids: Collection[str] = ALL) -> None:
    while any(memory.holder(id) for id in ids):
        threading.Event().wait(0.005)


def test_what_was_stored_before_an_exception_is_committed(store: OneByOne, memory: BaseMachineMemory) -> None:
    with memory.leases(ALL) as batch:
        store.failing = ZeroDivisionError()
        with pytest.raises(ZeroDivisionError):
            batch.commit({id: {} for id in ALL})
        assert batch.committed == {"a": 1}


def test_what_is_stored_in_the_end_is_refused_no_more(memory: BaseMachineMemory) -> None:
    with memory.leases(ALL) as batch:
        with pytest.raises(CommitRefused) as refused:
            batch.commit({"a": {}, "b": {"no": set()}})
        assert isinstance(refused.value.exceptions[0], InvalidData)
        assert list(batch.refused) == ["b"]
        batch.commit({"b": {}})
        assert (batch.committed, batch.refused) == ({"a": 1, "b": 1}, {})


def test_renewing_tells_of_leases_that_are_known_to_be_lost(memory: BaseMachineMemory) -> None:
    with memory.leases(ALL, ttl=5) as batch:
        batch["b"]._lost = "could not be kept alive (LockError)"
        with pytest.raises(CommitRefused, match="1 of 3 machines were refused to renew"):
            batch.renew(60)
        assert isinstance(batch.refused["b"], LockLost)
        assert batch["a"].remaining > 59


def test_a_row_in_use_whose_lease_is_over_is_refused_alone(
    store: OneByOne, memory: BaseMachineMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    renew_each = store.renew_each

    def passed_over(leases: Collection[LeaseRef]) -> tuple[set[str], set[str]]:
        return (set(), set()) if leases and next(iter(leases))[0] == "b" else renew_each(leases)

    monkeypatch.setattr(store, "renew_each", passed_over)
    with memory.leases(ALL, ttl=5) as batch:
        memory.force_unlock("b")
        with pytest.raises(CommitRefused, match="1 of 3 machines were refused to renew"):
            batch.renew(60)
        assert list(batch.refused) == ["b"]
        assert batch["c"].remaining > 59


def test_a_lease_that_the_keeper_has_given_up_is_given_back_all_the_same() -> None:
    """As after renewals that were applied, and whose replies were lost."""

    class Mute(SimpleStore):
        def renew_each(self, leases: Collection[LeaseRef]) -> tuple[set[str], set[str]]:
            super().renew_each([(id, token, 60.0) for id, token, _ in leases])
            raise LockError("no reply")

    memory = BaseMachineMemory(Mute())
    with memory.lease("a", ttl=0.05, keep_alive=True) as lease, memory.leases(["b"], ttl=0.05, keep_alive=True) as many:
        while not lease._lost or not many["b"]._lost:
            threading.Event().wait(0.005)
        assert memory.holder("a")
        assert memory.holder("b")
    assert [memory.holder(id) for id in "ab"] == [None, None]


def test_the_unforeseen_at_one_store_ends_no_lease_in_another() -> None:
    class Faulty(SimpleStore):
        is_asked = threading.Event()

        def renew_each(self, leases: Collection[LeaseRef]) -> tuple[set[str], set[str]]:
            self.is_asked.set()
            raise TypeError

    other, faulty = SimpleMachineMemory(), Faulty()
    with other.lease("a", ttl=0.4, keep_alive=True) as kept:
        with BaseMachineMemory(faulty).lease("a", ttl=0.1, keep_alive=True) as lost:
            assert faulty.is_asked.wait(5)
            while not lost._lost:
                threading.Event().wait(0.005)
        threading.Event().wait(0.4)
        assert kept.commit({}) == 1


def test_a_write_that_shows_a_lease_to_be_live_has_it_kept_alive_again() -> None:
    class Slow(SimpleStore):
        def write(self, change: Change) -> int:
            keeper._lose(lease, None)
            return super().write(change)

    memory = BaseMachineMemory(Slow())
    with memory.lease("a", keep_alive=True) as lease:
        lease.write({})
        assert lease in keeper._kept
        assert lease.commit({}) == 2


@asynchronous
async def test_leases_that_come_after_a_task_was_cancelled_are_given_back(
    store: OneByOne, memory: BaseMachineMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where the rest of the answer is a failure, long after the task is gone."""
    batch = memory.leases(ALL)._new_batch()
    batch._abandon()
    monkeypatch.setattr("machine_memory.core.keeper.keeper._returned", {})  # It has tried for as long as it does.
    store.failing = LockError("no answer")
    with pytest.raises(LockError):
        batch._take()
    is_free(memory)


@pytest.mark.parametrize("kind", ERRORS)
def test_errors_come_through_a_pool_of_processes(kind: Any) -> None:
    error = kind("said", [LockLost("over")]) if issubclass(kind, ExceptionGroup) else kind("said")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301


def test_a_lock_whose_reply_was_lost_comes_through_it_as_one_that_failed() -> None:
    error = pickle.loads(pickle.dumps(UnknownGrant("a", TimeoutError())))  # noqa: S301
    assert (type(error), str(error)) == (LockError, "The store failed to lock 'a' (TimeoutError).")
