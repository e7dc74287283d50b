"""What something else has written among the machines: of all others it says nothing."""

import logging
from typing import Any

import pytest

from machine_memory import CorruptRecord, Metadata
from machine_memory.core.records import Sought
from tests.contract.stores import looked_through
from tests.contract.test_timers import NOW, claimed
from tests.redis.store import RedisStore

PASSED_OVER = "passed over 1 keys of machines that hold no hash: something else wrote them"


def spoil(store: RedisStore, id: str) -> None:
    """Let the key of a machine hold a text."""
    store.client.delete(store.key(id))
    store.client.set(store.key(id), "text")


class TestAnotherKind:
    def test_of_a_batch_its_machine_alone_is_denied(
        self, redis_store: RedisStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        spoil(redis_store, "b")
        with redis_store.memory.leases(["a", "b", "c"]) as batch:
            assert [lease.id for lease in batch] == ["a", "c"]
            assert batch.denied == ["b"]
        assert PASSED_OVER in caplog.text

    def test_what_else_is_due_is_claimed(self, redis_store: RedisStore, caplog: pytest.LogCaptureFixture) -> None:
        for id in ("a", "b"):
            redis_store.memory.write(id, {}, wake_at=NOW)
        spoil(redis_store, "a")
        assert claimed(redis_store.memory, ttl=600) == ["b"]
        assert claimed(redis_store.memory) == []
        assert PASSED_OVER in caplog.text

    def test_whoever_asks_for_its_holder_is_told(self, redis_store: RedisStore) -> None:
        spoil(redis_store, "a")
        with pytest.raises(CorruptRecord, match="The key of 'a' holds no hash: something else wrote it"):
            redis_store.memory.holder("a")

    def test_its_relatives_are_listed(self, redis_store: RedisStore) -> None:
        for id in ("a", "b"):
            redis_store.memory.write(id, {}, metadata=Metadata(parent="p"))
        spoil(redis_store, "a")
        assert redis_store.memory.children("p") == redis_store.memory.tree("p") == ["b"]
        list(redis_store.memory.store.reindex(dry_run=False))

    def test_a_child_of_it_can_be_written(self, redis_store: RedisStore) -> None:
        spoil(redis_store, "p")
        redis_store.memory.write("a", {}, metadata=Metadata(parent="p"))
        assert redis_store.memory.children("p") == redis_store.memory.tree("p") == ["a"]


class TestKeysThatAreNoText:
    def test_they_are_no_machines(self, redis_store: RedisStore) -> None:
        memory = redis_store.memory
        memory.write("a", {}, wake_at=NOW)
        memory.lock("a")
        foreign = redis_store.key("").encode() + b"\xff\xfe"
        redis_store.client.hset(foreign, "version", "1")
        redis_store.client.zadd(redis_store.key("").encode() + b"(children)\xff", {"a": 1})
        assert [record.id for record in memory.find()] == ["a"]
        assert [info.id for info in memory.held_locks()] == ["a"]
        assert looked_through(memory, Sought()) == {"a"}
        list(memory.store.reindex(dry_run=False))
        memory.purge_expired_locks()
        assert redis_store.client.exists(foreign)


class TestTimesThatAreNone:
    @pytest.mark.parametrize("microseconds", ["9" * 15, "9" * 18, "9" * 40])
    def test_they_are_shown_as_absent_where_they_can_be(self, redis_store: RedisStore, microseconds: str) -> None:
        memory = redis_store.memory
        memory.write("a", {})
        memory.lock("a")
        names = ["lease_expires_at", "lease_acquired_at", "wake_at", "written_at"]
        redis_store.client.hset(redis_store.key("a"), mapping=dict.fromkeys(names, microseconds))
        (machine,) = memory.store.look_at(["a"])
        shown: dict[str, Any] = {name: getattr(machine, name) for name in names}
        assert all(time is None or time.year < 3000 for time in shown.values())
        assert memory.record("a") is not None
        assert memory.holder("a") is not None or len(microseconds) == 15


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "machine_memory")
