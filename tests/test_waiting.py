"""How long ``wait`` waits: the last attempt falls on the deadline."""

import time

import pytest

from machine_memory import BaseMachineMemory, LockDenied, SimpleMachineMemory
from tests.conftest import Worker, asynchronous, databases, redis_servers
from tests.stores import Store

WAIT = 0.3
TURNS = 3
"""As many, as the pauses between attempts are drawn by lot."""


@pytest.fixture
def memory(store: Store) -> BaseMachineMemory:
    """That of the store; where its clock stands still, one whose clock does not."""
    memory = SimpleMachineMemory() if store.name == "simple" else store.memory
    memory.read("warm up")
    return memory


@pytest.mark.parametrize("store", ["simple", *databases(forms=("",)), *redis_servers()[:1]], indirect=True)
class TestWaiting:
    def test_what_gets_free_just_before_the_deadline_is_had(self, memory: BaseMachineMemory, other: Worker) -> None:
        for _ in range(TURNS):
            assert other.lock("a", ttl=WAIT - 0.02) is True
            started = time.monotonic()
            with memory.lease("a", wait=WAIT) as lease:
                assert time.monotonic() - started < 2 * WAIT
                assert lease.remaining > lease.ttl - WAIT / 2

    def test_what_stays_held_is_waited_for_until_the_deadline(self, memory: BaseMachineMemory, other: Worker) -> None:
        other.lock("a")
        for _ in range(TURNS):
            started = time.monotonic()
            with pytest.raises(LockDenied, match="'a'"), memory.lease("a", wait=WAIT):
                pass
            assert WAIT <= time.monotonic() - started < 2 * WAIT

    @asynchronous
    async def test_it_is_the_same_for_a_task(self, memory: BaseMachineMemory, other: Worker) -> None:
        for _ in range(TURNS):
            assert await other.alock("a", ttl=WAIT - 0.02) is True
            started = time.monotonic()
            async with memory.alease("a", wait=WAIT):
                assert time.monotonic() - started < 2 * WAIT
        await other.alock("b")
        started = time.monotonic()
        with pytest.raises(LockDenied, match="'b'"):
            async with memory.alease("b", wait=WAIT):
                pass
        assert WAIT <= time.monotonic() - started < 2 * WAIT
