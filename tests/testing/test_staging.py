"""What can be staged, on every kind of store: what the code under test gets to see, and that it is over afterwards."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User

from machine_memory import (
    BaseMachineMemory,
    CommitRefused,
    LockDenied,
    LockError,
    LockLost,
    LockNotHeld,
    ReadError,
    UnknownOutcome,
    WriteError,
    memories,
)
from machine_memory.testing import (
    Crash,
    Somebody,
    crash,
    denied,
    failing,
    held_by_another,
    isolated_memories,
    reply_lost,
    taken_over,
)
from tests.conftest import _store, asynchronous, databases, redis_servers
from tests.contract.stores import Store

Memory = BaseMachineMemory


@pytest.fixture(params=["simple", *databases("sqlite", forms=("",)), *redis_servers("redis")], name="store")
def _some_store(request: pytest.FixtureRequest) -> Iterator[Store]:
    yield from _store(request)


def test_somebody_else_holds_nothing_of_the_tests(memory: Memory) -> None:
    somebody = Somebody()
    assert memory.lock("a") is True
    assert somebody(memory.lock, "a") is False
    with pytest.raises(LockNotHeld):
        somebody(memory.write, "a", {})


def test_a_stalled_holder(memory: Memory) -> None:
    with held_by_another(memory, "a") as somebody:
        assert memory.lock("a") is False
        with pytest.raises(LockNotHeld):
            memory.write("a", {})
        assert somebody(memory.write, "a", {}) == 1
        with pytest.raises(LockDenied, match="'a' is held already"), held_by_another(memory, "a"):
            pass
    assert memory.lock("a") is True


def test_a_denied_lock(memory: Memory) -> None:
    with denied(memory, "a"):
        assert [memory.lock("a"), memory.lock("b")] == [False, True]
        with memory.leases(["a", "c"]) as batch:
            assert (batch.denied, [lease.id for lease in batch]) == (["a"], ["c"])
    with denied(memory):
        assert [memory.lock("a"), memory.lock("d")] == [False, False]
        with memory.leases(["a", "d"]) as batch:
            assert batch.denied == ["a", "d"]
    assert memory.lock("a") is True


def test_a_lost_lease(memory: Memory) -> None:
    with memory.lease("a") as lease:
        winner = taken_over(memory, "a")
        with pytest.raises(LockLost):
            lease.commit({"by": "zombie"})
        assert winner(memory.write, "a", {"by": "winner"}) == 1
    assert memory.lock("a") is False
    winner(memory.unlock, "a")
    with pytest.raises(LockDenied, match="Nobody holds 'a': there is no lease to take over"):
        taken_over(memory, "a")


@pytest.mark.parametrize("applied", [True, False])
def test_an_unknown_outcome(memory: Memory, applied: bool) -> None:
    with memory.lease("a") as lease, reply_lost(memory, applied=applied):
        with pytest.raises(UnknownOutcome, match="The reply to the write of 'a' was lost: it may have been applied"):
            lease.write({"n": 1})
        assert memory.read("a") == ({"n": 1} if applied else None)
    with reply_lost(memory, applied=applied):
        with pytest.raises(UnknownOutcome):
            memory.cleanup("a")
        assert memory.write("a", {}) in (1, 2)


def test_an_unknown_outcome_of_a_batch(memory: Memory) -> None:
    with memory.leases(["a", "b"]) as batch, reply_lost(memory, applied=True):
        with pytest.raises(CommitRefused) as refused:
            batch.commit({"a": {}, "b": {}})
        assert [type(error) for error in refused.value.exceptions] == [UnknownOutcome]
    assert (memory.read("a"), memory.read("b")) == ({}, {})


def test_a_failing_store(memory: Memory) -> None:
    memory.write("a", {"n": 1})
    with failing(memory):
        with pytest.raises(ReadError, match="as staged: read is one of its reads"):
            memory.read("a")
        with pytest.raises(WriteError, match="as staged: write is one of its writes"):
            memory.write("a", {})
        with pytest.raises(LockError, match="as staged: acquire is one of its locks") as error:
            memory.lock("a")
        assert isinstance(error.value.__cause__, ConnectionError)
        assert memory.unlock("a") is False
    assert memory.read("a") == {"n": 1}
    assert memory.lock("a") is True
    with failing(memory, "reads"):
        assert memory.write("a", {"n": 2}) == 2
        with pytest.raises(ReadError):
            list(memory.find())


@pytest.mark.parametrize("applied", [True, False])
def test_a_crash_leaves_the_lease_behind(memory: Memory, applied: bool) -> None:
    went_on = []
    with crash(memory, applied=applied), memory.lease("a", ttl=600) as lease:
        try:
            lease.write({"n": 1})
        except Exception:
            went_on.append("code that catches every Exception")
            raise
        went_on.append("the next line")
    assert went_on == []
    assert memory.read("a") == ({"n": 1} if applied else None)
    assert memory.lock("a") is False
    holder = memory.holder("a")
    assert holder and (holder.expires_at - holder.locked_at).total_seconds() == pytest.approx(600, abs=0.001)


@pytest.mark.django_db
@pytest.mark.parametrize("applied", [True, False])
def test_a_crash_leaves_the_transaction_of_a_testcase_to_the_test(applied: bool) -> None:
    memory = memories["default"]
    with crash(memory, applied=applied), memory.lease("a") as lease:
        lease.write({"n": 1})
    with pytest.raises(LockDenied), memory.lease("a"):
        pass
    assert memory.read("a") == ({"n": 1} if applied else None)
    assert not User.objects.exists()


def test_a_batch_can_crash(memory: Memory) -> None:
    with crash(memory), memory.leases(["a", "b"]) as batch:
        batch.commit({"a": {}, "b": {}})
    assert [memory.read("a"), memory.lock("a"), memory.lock("b")] == [None, False, False]


def test_a_process_that_is_gone_asks_for_nothing(memory: Memory) -> None:
    with crash(memory):
        with pytest.raises(Crash):
            memory.write("a", {})
        with pytest.raises(Crash):
            memory.read("a")
        raise Crash


@pytest.mark.parametrize("staged", [crash, lambda memory: reply_lost(memory, applied=True)])
def test_what_was_staged_in_vain_is_told(memory: Memory, staged: Any) -> None:
    told = "Nothing was written within the block, where a (crash|reply) was to"
    with pytest.raises(AssertionError, match=told), staged(memory):
        memory.read("a")


@asynchronous
async def test_coroutines_meet_it_as_well(memory: Memory) -> None:
    with failing(memory, "reads"), pytest.raises(ReadError):
        await memory.aread("a")
    with crash(memory):
        async with memory.alease("a") as lease:
            await lease.acommit({})
    assert [await memory.aread("a"), await memory.alock("a")] == [None, False]


def test_what_a_crash_left_behind_runs_out_by_the_clock() -> None:
    with isolated_memories() as clock:
        memory = memories["simple"]
        with crash(memory), memory.lease("a", ttl=30) as lease:
            lease.commit({})
        clock.advance(29)
        assert memory.lock("a") is False
        clock.advance(1)
        assert memory.lock("a") is True
