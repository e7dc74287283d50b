"""Several processes on one database: paused, killed, racing, and counting together."""

import os
import time
from collections.abc import Iterator

import pytest

from tests.actor import Actor
from tests.conftest import databases, redis_servers
from tests.contract.stores import Store

TIMES = 500 if os.environ.get("MACHINE_MEMORY_LARGE") else 200

# Each kind of store once: the processes use the memory of the settings, whatever form that of the test has.
pytestmark = pytest.mark.parametrize("shared_store", [*databases(forms=("",)), *redis_servers()[:1]], indirect=True)


@pytest.fixture
def actor(shared_store: Store) -> Iterator[Actor]:
    with Actor(shared_store.alias) as actor:
        yield actor


def test_a_process_paused_beyond_its_ttl_can_neither_write_nor_unlock(shared_store: Store, actor: Actor) -> None:
    memory = shared_store.memory
    assert actor("lock", "a") is True
    actor.stop()
    shared_store.expire("a")
    with memory.lease("a") as lease:
        lease.write({"by": "holder"})
        before = shared_store.lease_of("a")
        actor.tell("write", "a", {"by": "zombie"})
        actor.tell("unlock", "a")
        actor.resume()

        assert [actor.answer(), actor.answer()] == ["LockLost", False]
        assert before and shared_store.lease_of("a") == before
        assert lease.commit({"by": "holder", "again": True}) == 2
    assert memory.read("a") == {"by": "holder", "again": True}


def test_a_process_paused_beyond_its_ttl_is_refused_also_after_the_new_holder_has_left(
    shared_store: Store, actor: Actor
) -> None:
    assert actor("lock", "a") is True
    actor.stop()
    shared_store.expire("a")
    with shared_store.memory.lease("a") as lease:
        lease.commit({"by": "holder"})
    actor.tell("write", "a", {"by": "zombie"}, expected_version=1)
    actor.tell("cleanup", "a")
    actor.resume()

    assert [actor.answer(), actor.answer()] == ["LockLost", "LockLost"]
    assert shared_store.memory.read("a") == {"by": "holder"}


def test_a_killed_process_blocks_for_its_ttl_and_no_longer(shared_store: Store, actor: Actor) -> None:
    assert actor("lock", "a") is True
    assert actor("write", "a", {"step": 1}) == 1
    actor.kill()

    assert shared_store.memory.lock("a") is False
    shared_store.expire("a")
    with shared_store.memory.lease("a") as lease:
        assert lease.data == {"step": 1}


def test_of_fifty_lockers_at_one_barrier_one_wins_each_time(shared_store: Store) -> None:
    actors = [Actor(shared_store.alias) for _ in range(5)]
    try:
        for actor in actors:
            actor("read", "warm up")
        for number in range(6):
            # The first three ids are absent, the others are known and free.
            id = f"race {number % 3}"
            shared_store.memory.force_unlock(id)
            at = time.monotonic() + 0.3
            for actor in actors:
                actor.tell("race", id, 10, at)
            assert sum(actor.answer() for actor in actors) == 1, f"round {number}"
    finally:
        for actor in actors:
            actor.__exit__()


@pytest.mark.timeout(300)
def test_four_processes_counting_together_lose_no_update(shared_store: Store) -> None:
    actors = [Actor(shared_store.alias) for _ in range(4)]
    try:
        for actor in actors:
            actor.tell("increment", ["a", "b"], TIMES)
        assert [actor.answer() for actor in actors] == [TIMES] * 4
    finally:
        for actor in actors:
            actor.__exit__()
    for id in "ab":
        record = shared_store.memory.record(id)
        assert record and (record.data, record.version) == ({"n": 2 * TIMES}, 2 * TIMES)
    assert list(shared_store.memory.held_locks()) == []
