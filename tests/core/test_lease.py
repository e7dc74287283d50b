"""What a lease is made of: contexts, owners, and the thread that keeps it alive."""

import os
import sys
import threading
from contextlib import suppress
from typing import Any

import pytest
from asgiref.sync import async_to_sync

from machine_memory import BaseMachineMemory, LockError, LockInTransaction, LockLost, SimpleMachineMemory, StoreError
from machine_memory.backends.simple import SimpleStore
from machine_memory.core.contexts import OF_A_SHARD, SHARDS, describe_owner, held
from machine_memory.core.failures import Step
from machine_memory.core.keeper import keeper
from tests.conftest import asynchronous, in_thread
from tests.contract.stores import Clock


class Failure(Exception):
    """What the driver of a deficient store raises."""


class Deficient(SimpleStore):
    """A store that fails when it is told to."""

    failures = (Failure,)
    failing: Exception | None = None
    closed_by: str | None = None

    def renew_each(self, *args: Any, **kwargs: Any) -> Any:
        if self.failing:
            raise self.failing
        return super().renew_each(*args, **kwargs)

    def acquire(self, *args: Any, **kwargs: Any) -> Any:
        if self.failing:
            raise self.failing
        return super().acquire(*args, **kwargs)

    def close(self) -> None:
        self.closed_by = threading.current_thread().name


def test_a_thread_is_described_by_host_process_and_name() -> None:
    owner = in_thread(describe_owner).result()
    assert owner.endswith(f":{os.getpid()}:{owner.split(':')[2]}")
    assert owner.split(":")[2].startswith("Thread-")


@asynchronous
async def test_a_task_is_described_by_its_name() -> None:
    assert ":Task-" in describe_owner()


def test_a_name_that_no_store_could_keep_is_mended() -> None:
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(describe_owner()), name="a\0\ud800" + "x" * 300)
    thread.start()
    thread.join()
    assert len(found[0]) == 255
    assert ":a?xxx" in found[0]


def test_a_context_remembers_what_it_has_not_given_back() -> None:
    memory = SimpleMachineMemory()
    assert held(memory, "a") is None
    memory.lock("a")
    memory.lock("b")
    assert held(memory, "a") is not None
    assert in_thread(lambda: held(memory, "a")).result() is None
    memory.unlock("a")
    memory.cleanup("b")
    with memory.lease("c") as lease:
        assert held(memory, "c") is lease
        lease.commit({})
        assert held(memory, "c") is None
    assert [held(memory, id) for id in "abc"] == [None, None, None]


def test_of_many_it_forgets_those_that_end_first_and_none_of_a_block() -> None:
    memory = SimpleMachineMemory()
    ids = [f"m{number}" for number in range(2 * SHARDS * OF_A_SHARD)]
    assert memory.lock("main", ttl=3600)
    for id in ids:
        memory.lock(id, ttl=60)
    assert held(memory, "main") is not None
    assert held(memory, ids[-1]) is not None
    assert held(memory, ids[0]) is None
    assert memory.lock("brief", ttl=5)
    assert memory.write("brief", {}) == 1
    with memory.leases([f"of a block {id}" for id in ids]) as batch:
        assert all(held(memory, lease.id) is lease for lease in batch)


def test_a_grant_that_took_longer_than_its_ttl_is_an_error_and_is_given_back() -> None:
    clock = Clock()

    class Slow(SimpleStore):
        def acquire(self, *args: Any, **kwargs: Any) -> Any:
            grant = super().acquire(*args, **kwargs)
            clock.now += 0.02
            return grant

    memory = BaseMachineMemory(Slow(clock))
    with pytest.raises(LockError, match=r"The store took longer to lock 'a' than the ttl of 0.01 s."):
        memory.lock("a", ttl=0.01)
    assert list(memory.held_locks()) == []


class TestKeepAlive:
    def test_a_store_that_is_back_in_time_does_no_harm(self) -> None:
        store = Deficient()
        memory = BaseMachineMemory(store)
        with memory.lease("a", ttl=0.3, keep_alive=True) as lease:
            store.failing = Failure()
            threading.Event().wait(0.15)
            store.failing = None
            before = lease.remaining
            threading.Event().wait(0.15)
            assert lease.remaining > before - 0.14
            assert lease.commit({}) == 1

    def test_a_store_that_stays_away_loses_the_lease(self, caplog: pytest.LogCaptureFixture) -> None:
        store = Deficient()
        memory = BaseMachineMemory(store)
        with memory.lease("a", ttl=0.05, keep_alive=True) as lease:
            store.failing = Failure()
            lease_is_lost(lease)
            with pytest.raises(LockLost, match=r"The lease of 'a' could not be kept alive \(LockError\)"):
                lease.write({})
        assert "lost the lease of a machine: it could not be kept alive (Failure)" in caplog.text

    def test_whatever_ends_the_thread_loses_the_lease(self, caplog: pytest.LogCaptureFixture) -> None:
        store = Deficient()
        memory = BaseMachineMemory(store)
        with memory.lease("a", ttl=0.05, keep_alive=True) as lease:
            store.failing = ZeroDivisionError()
            lease_is_lost(lease)
            with pytest.raises(LockLost, match=r"could not be kept alive \(ZeroDivisionError\)"):
                lease.commit({})
        assert "ZeroDivisionError" in caplog.text

    def test_a_lease_that_was_committed_is_renewed_no_more(self, caplog: pytest.LogCaptureFixture) -> None:
        store = Deficient()
        memory = BaseMachineMemory(store)
        with memory.lease("a", ttl=0.05, keep_alive=True) as lease:
            lease.commit({})
            store.failing = Failure()
            assert lease not in keeper._kept
        assert caplog.text == ""

    @asynchronous
    async def test_it_ends_with_an_asynchronous_block_too(self) -> None:
        store = Deficient()
        memory = BaseMachineMemory(store)
        async with memory.alease("a", ttl=0.03, keep_alive=True) as lease:
            await lease.awrite({})
            assert lease in keeper._kept
            threading.Event().wait(0.06)
        assert lease not in keeper._kept
        while not store.closed_by:
            threading.Event().wait(0.01)
        assert store.closed_by == "machine-memory-keeper"


def lease_is_lost(lease: Any) -> None:
    while not lease._over:
        threading.Event().wait(0.01)


class TestFailures:
    def test_a_failing_store_is_an_error_of_the_verb_with_its_cause(self) -> None:
        store = Deficient()
        memory = BaseMachineMemory(store)
        store.failing = Failure("its message may quote data")
        with pytest.raises(LockError) as failed:
            memory.lock("a")
        assert str(failed.value) == "The store failed to lock 'a' (Failure)."
        assert failed.value.__cause__ is store.failing
        assert isinstance(failed.value, StoreError)

    def test_what_is_no_failure_of_the_store_is_not_dressed_up_as_one(self) -> None:
        store = Deficient()
        memory = BaseMachineMemory(store)
        store.failing = ZeroDivisionError()
        with pytest.raises(ZeroDivisionError):
            memory.lock("a")

    def test_it_is_the_same_for_a_coroutine(self) -> None:
        store = Deficient()
        memory = BaseMachineMemory(store)
        store.failing = Failure()
        with pytest.raises(LockError):
            async_to_sync(memory.alock)("a")


def test_a_release_amid_another_step_of_its_thread_waits_for_nothing() -> None:
    """As of a signal handler: the connection is in use, and what it would wait for is its own thread."""

    class Interrupted(SimpleStore):
        def write(self, *args: Any, **kwargs: Any) -> int:
            released.append(lease.release())
            return super().write(*args, **kwargs)

    released: list[bool] = []
    memory = BaseMachineMemory(Interrupted())
    with memory.lease("a") as lease:
        with suppress(LockLost):  # Whichever comes first: it is given back in the background.
            lease.commit({"n": 1})
        assert released == [False]
    assert memory.holder("a") is None


def test_an_unlock_amid_another_step_of_its_thread_waits_for_nothing() -> None:
    class Interrupted(SimpleStore):
        def acquire(self, *args: Any, **kwargs: Any) -> Any:
            unlocked.append(memory.unlock("a"))
            return super().acquire(*args, **kwargs)

        def release(self, *args: Any, **kwargs: Any) -> bool:
            assert unlocked, "it asked the store"
            return super().release(*args, **kwargs)

    unlocked: list[bool] = []
    memory = BaseMachineMemory(Interrupted())
    assert memory.lock("a") is True
    assert unlocked == [False]
    assert memory.unlock("a") is True


def test_a_step_that_could_not_even_end_keeps_nothing_from_being_released() -> None:
    """As where a signal comes before the first line of its end."""

    def interrupt(frame: Any, event: str, arg: Any) -> Any:
        if frame.f_code is Step.__exit__.__code__:
            raise KeyboardInterrupt
        return interrupt

    memory, before = SimpleMachineMemory(), sys.gettrace()
    sys.settrace(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            memory.read("a")
    finally:
        sys.settrace(before)  # What a trace raises ends it, and coverage's with it.
    assert memory.lock("a") is True
    assert memory.unlock("a") is True


def test_a_lock_within_a_transaction_is_a_mistake_and_no_outage() -> None:
    assert not issubclass(LockInTransaction, StoreError)
