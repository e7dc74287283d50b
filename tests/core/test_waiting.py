"""How long ``wait`` waits: the last attempt falls on the deadline."""

import time
from types import SimpleNamespace

import pytest
import tenacity

from machine_memory import BaseMachineMemory, LockDenied, SimpleMachineMemory
from machine_memory.core import retries
from tests.conftest import Worker, asynchronous, databases, redis_servers
from tests.contract.stores import Store

WAIT = 0.3
TURNS = 2
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
                # It counts from its grant, and not from the first attempt.
                assert lease.remaining + (time.monotonic() - started) > lease.ttl + WAIT / 2

    def test_what_stays_held_is_waited_for_until_the_deadline(self, memory: BaseMachineMemory, other: Worker) -> None:
        other.lock("a")
        for _ in range(TURNS):
            started = time.monotonic()
            with pytest.raises(LockDenied, match="'a'"), memory.lease("a", wait=WAIT):
                pass
            assert time.monotonic() - started >= WAIT

    @asynchronous
    async def test_it_is_the_same_for_a_task(self, memory: BaseMachineMemory, other: Worker) -> None:
        for _ in range(TURNS):
            assert await other.alock("a", ttl=WAIT - 0.02) is True
            async with memory.alease("a", wait=WAIT) as lease:
                assert lease.remaining > 0
        await other.alock("b")
        started = time.monotonic()
        with pytest.raises(LockDenied, match="'b'"):
            async with memory.alease("b", wait=WAIT):
                pass
        assert time.monotonic() - started >= WAIT


@pytest.mark.parametrize("wait", [0.01, WAIT, 20])
def test_no_attempt_is_later_than_the_one_at_the_deadline(wait: float, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(tenacity, "time", SimpleNamespace(monotonic=lambda: clock.now))

    def sleep(seconds: float) -> None:
        clock.now += seconds

    def attempt() -> bool:
        attempts.append(clock.now)
        return False

    for _ in range(100):  # The pauses are drawn by lot.
        clock.now, attempts = 0.0, list[float]()
        assert tenacity.Retrying(sleep=sleep, **retries.waiting(wait))(attempt) is False
        assert attempts[0] == 0
        assert attempts == sorted(set(attempts))
        assert attempts[-1] == pytest.approx(wait, abs=1e-9)
