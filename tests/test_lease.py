"""What a lease is made of: contexts, owners, and the thread that keeps it alive."""

import os
import threading
from contextlib import suppress
from typing import Any

import pytest
from asgiref.sync import async_to_sync

from machine_memory import LockError, LockInTransaction, LockLost, SimpleMachineMemory, StoreError
from machine_memory.contexts import describe_owner, held
from machine_memory.keeper import keeper
from tests.conftest import asynchronous, in_thread
from tests.stores import Clock


class Failure(Exception):
    """What the driver of a deficient store raises."""


class Deficient(SimpleMachineMemory):
    """A store that fails when it is told to."""

    failures = (Failure,)
    failing: Exception | None = None
    closed_by: str | None = None

    def _renew_each(self, *args: Any, **kwargs: Any) -> Any:
        if self.failing:
            raise self.failing
        return super()._renew_each(*args, **kwargs)

    def _acquire(self, *args: Any, **kwargs: Any) -> Any:
        if self.failing:
            raise self.failing
        return super()._acquire(*args, **kwargs)

    def _close(self) -> None:
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


def test_a_grant_that_took_longer_than_its_ttl_is_an_error_and_is_given_back() -> None:
    class Slow(SimpleMachineMemory):
        def _acquire(self, *args: Any, **kwargs: Any) -> Any:
            grant = super()._acquire(*args, **kwargs)
            threading.Event().wait(0.02)
            return grant

    memory = Slow(clock=Clock())
    with pytest.raises(LockError, match=r"The store took longer to lock 'a' than the ttl of 0.01 s."):
        memory.lock("a", ttl=0.01)
    assert list(memory.held_locks()) == []


class TestKeepAlive:
    def test_a_store_that_is_back_in_time_does_no_harm(self) -> None:
        memory = Deficient()
        with memory.lease("a", ttl=0.3, keep_alive=True) as lease:
            memory.failing = Failure()
            threading.Event().wait(0.15)
            memory.failing = None
            before = lease.remaining
            threading.Event().wait(0.15)
            assert lease.remaining > before - 0.14
            assert lease.commit({}) == 1

    def test_a_store_that_stays_away_loses_the_lease(self, caplog: pytest.LogCaptureFixture) -> None:
        memory = Deficient()
        with memory.lease("a", ttl=0.05, keep_alive=True) as lease:
            memory.failing = Failure()
            lease_is_lost(lease)
            with pytest.raises(LockLost, match=r"The lease of 'a' could not be kept alive \(LockError\)"):
                lease.write({})
        assert "lost the lease of a machine: it could not be kept alive (Failure)" in caplog.text

    def test_whatever_ends_the_thread_loses_the_lease(self, caplog: pytest.LogCaptureFixture) -> None:
        memory = Deficient()
        with memory.lease("a", ttl=0.05, keep_alive=True) as lease:
            memory.failing = ZeroDivisionError()
            lease_is_lost(lease)
            with pytest.raises(LockLost, match=r"could not be kept alive \(ZeroDivisionError\)"):
                lease.commit({})
        assert "ZeroDivisionError" in caplog.text

    def test_a_lease_that_was_committed_is_renewed_no_more(self, caplog: pytest.LogCaptureFixture) -> None:
        memory = Deficient()
        with memory.lease("a", ttl=0.05, keep_alive=True) as lease:
            lease.commit({})
            memory.failing = Failure()
            assert lease not in keeper._kept
        assert caplog.text == ""

    @asynchronous
    async def test_it_ends_with_an_asynchronous_block_too(self) -> None:
        memory = Deficient()
        async with memory.alease("a", ttl=0.03, keep_alive=True) as lease:
            await lease.awrite({})
            assert lease in keeper._kept
            threading.Event().wait(0.06)
        assert lease not in keeper._kept
        while not memory.closed_by:
            threading.Event().wait(0.01)
        assert memory.closed_by == "machine-memory-keeper"


def lease_is_lost(lease: Any) -> None:
    while not lease._over:
        threading.Event().wait(0.01)


class TestFailures:
    def test_a_failing_store_is_an_error_of_the_verb_with_its_cause(self) -> None:
        memory = Deficient()
        memory.failing = Failure("its message may quote data")
        with pytest.raises(LockError) as failed:
            memory.lock("a")
        assert str(failed.value) == "The store failed to lock 'a' (Failure)."
        assert failed.value.__cause__ is memory.failing
        assert isinstance(failed.value, StoreError)

    def test_what_is_no_failure_of_the_store_is_not_dressed_up_as_one(self) -> None:
        memory = Deficient()
        memory.failing = ZeroDivisionError()
        with pytest.raises(ZeroDivisionError):
            memory.lock("a")

    def test_it_is_the_same_for_a_coroutine(self) -> None:
        memory = Deficient()
        memory.failing = Failure()
        with pytest.raises(LockError):
            async_to_sync(memory.alock)("a")


def test_a_release_amid_another_step_of_its_thread_waits_for_nothing() -> None:
    """As of a signal handler: the connection is in use, and what it would wait for is its own thread."""

    class Interrupted(SimpleMachineMemory):
        def _write(self, *args: Any, **kwargs: Any) -> int:
            released.append(lease.release())
            return super()._write(*args, **kwargs)

    released: list[bool] = []
    memory = Interrupted()
    with memory.lease("a") as lease:
        with suppress(LockLost):  # Whichever comes first: it is given back in the background.
            lease.commit({"n": 1})
        assert released == [False]
    assert memory.holder("a") is None


def test_a_lock_within_a_transaction_is_a_mistake_and_no_outage() -> None:
    assert not issubclass(LockInTransaction, StoreError)
