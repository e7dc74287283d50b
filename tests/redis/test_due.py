"""The index of what is due: hints, and a hash that knows better."""

from datetime import timedelta
from typing import Any

import pytest
import redis

from machine_memory import LockNotHeld, VersionConflict, WriteError
from machine_memory.backends.redis import scripts
from machine_memory.backends.redis.hints import Hints
from machine_memory.core.records import Claim
from tests.conftest import Worker
from tests.contract.test_timers import LATER, NOW, claimed
from tests.redis.store import RedisStore, amid_each_write


def hints(store: Any) -> dict[str, float]:
    """Return the scores of the hints by id."""
    found = store.client.zrange(store.memory.store._indexes.due.key, 0, -1, withscores=True)
    return {member.decode().partition(":")[2]: score for member, score in found}


def members(store: Any) -> list[str]:
    return [member.decode() for member in store.client.zrange(store.memory.store._indexes.due.key, 0, -1)]


def failing(*args: Any) -> None:
    raise redis.ConnectionError


def age(store: Any, seconds: float) -> None:
    """Let every hint have been written so many seconds ago."""
    key = store.memory.store._indexes.due.key
    for member, score in store.client.zrange(key, 0, -1, withscores=True):
        number, _, id = member.decode().partition(":")
        store.client.zrem(key, member)
        store.client.zadd(key, {f"{int(number) - round(seconds * 1_000_000)}:{id}": score})


class TestIndex:
    def test_it_is_no_machine_and_no_machine_is_it(self, redis_store: RedisStore) -> None:
        memory = redis_store.memory
        memory.write("a", {}, wake_at=NOW)
        memory.write("(due)", {}, wake_at=NOW)
        assert sorted(claimed(memory)) == ["(due)", "a"]
        assert memory.purge_expired_locks().deleted == 0
        assert memory.tree("a") == ["a"]

    @pytest.mark.parametrize("id", ["a:b", "é😀 ::", "1:2:3", "\n"])
    def test_any_id_can_be_in_it(self, redis_store: RedisStore, id: str) -> None:
        redis_store.memory.write(id, {}, wake_at=NOW)
        assert claimed(redis_store.memory) == [id]

    def test_a_hint_that_has_had_its_day_goes(self, redis_store: RedisStore) -> None:
        memory, other = redis_store.memory, redis_store.new_memory()
        for id in ("cleared", "gone", "moved", "kept"):
            memory.write(id, {}, wake_at=NOW)
        other.write("cleared", {}, wake_at=None)
        other.cleanup("gone")
        memory.write("moved", {}, wake_at=LATER)
        assert claimed(memory, ttl=600) == ["kept"]
        assert set(hints(redis_store)) == {"gone", "moved", "kept"}
        assert claimed(memory) == []
        age(redis_store, 120)
        assert claimed(memory) == []
        assert "gone" not in hints(redis_store)

    def test_a_claim_moves_its_hint_to_where_the_machine_is_due_again(self, redis_store: RedisStore) -> None:
        redis_store.memory.write("a", {}, wake_at=NOW)
        assert claimed(redis_store.memory, ttl=600) == ["a"]
        wake_at = redis_store.client.hget(redis_store.key("a"), "wake_at")
        assert hints(redis_store) == {"a": int(wake_at)}

    def test_a_hint_of_a_write_that_is_still_on_its_way_stays(self, redis_store: RedisStore) -> None:
        memory, other = redis_store.memory, redis_store.new_memory()
        seen: list[list[str]] = []
        with amid_each_write(memory, lambda: seen.append(claimed(other))):
            memory.write("a", {}, wake_at=NOW)
        assert seen == [[]]
        assert claimed(other) == ["a"]

    def test_an_earlier_write_that_comes_late_is_not_forgotten(self, redis_store: RedisStore) -> None:
        memory, other = redis_store.memory, redis_store.new_memory()

        def overtake() -> None:
            other.write("a", {"by": "another"}, wake_at=LATER)
            assert claimed(other) == []

        with amid_each_write(memory, overtake):
            memory.write("a", {"by": "the first"}, wake_at=NOW)
        assert claimed(other) == ["a"]

    def test_a_refused_write_leaves_a_hint_that_goes_in_time(self, redis_store: RedisStore) -> None:
        Worker(redis_store.memory).lock("a")
        with pytest.raises(LockNotHeld):
            redis_store.memory.write("a", {}, wake_at=NOW)
        assert claimed(redis_store.memory) == []
        assert set(hints(redis_store)) == {"a"}
        age(redis_store, 2 * scripts.MOST_AGE / 1_000_000 + 1)
        assert claimed(redis_store.memory) == []
        assert hints(redis_store) == {}

    def test_no_write_goes_by_a_hint_that_may_have_gone(
        self, redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store: Any = redis_store.memory.store
        index, asked = store._indexes.due, []
        add = index.add

        def paused(*args: Any) -> str:
            asked.append(args)
            return str(int(add(*args)) - scripts.MOST_AGE - 1)

        monkeypatch.setattr(index, "add", paused)
        with pytest.raises(WriteError, match="Nothing was changed"):
            redis_store.memory.write("a", {}, wake_at=NOW)
        assert len(asked) == 5
        assert redis_store.memory.read("a") is None

    def test_what_is_in_use_stands_before_nothing(self, redis_store: RedisStore) -> None:
        memory = redis_store.memory
        for number in range(30):
            memory.write(f"held-{number}", {}, wake_at=NOW)
        memory.write("free", {}, wake_at=timedelta(milliseconds=1))
        with Worker(memory).leases([f"held-{number}" for number in range(30)]):
            redis_store.wait_until(lambda: claimed(memory, 5) == ["free"])

    def test_however_many_are_looked_at_a_lease_can_be_handed_on(
        self, redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        memory, token, numbers = redis_store.memory, Claim.token, list[int]()

        def counted(claim: Claim, number: int) -> str:
            numbers.append(number)
            return token(claim, number)

        monkeypatch.setattr(Claim, "token", counted)
        for number in range(30):
            memory.write(f"held-{number}", {}, wake_at=NOW)
        memory.write("free", {}, wake_at=timedelta(milliseconds=1))
        with Worker(memory).leases([f"held-{number}" for number in range(30)]):
            redis_store.wait_until(lambda: claimed(memory, 5) == ["free"])
        assert len(numbers) >= 31
        assert max(numbers) < 5, "each look numbers its own: five digits are enough for any"

    def test_where_the_hints_cannot_be_mended_the_claim_stands(
        self, redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        redis_store.memory.write("a", {}, wake_at=NOW)
        with monkeypatch.context() as patch:
            patch.setattr(Hints, "mend", failing)
            assert claimed(redis_store.memory, ttl=600) == ["a"]
        assert claimed(redis_store.memory) == []


class TestHintsOfTimersThatAreOver:
    def test_one_goes_with_the_next_that_is_written(self, redis_store: RedisStore) -> None:
        memory = redis_store.memory
        for number in range(20):
            memory.write("a", {"n": number}, wake_at=timedelta(days=30))
        assert len(members(redis_store)) == 2, "of the last write, and of the one before"
        memory.write("a", {}, wake_at=None)
        memory.write("b", {}, wake_at=LATER)
        assert set(hints(redis_store)) == {"b"}

    def test_so_does_that_of_a_machine_that_is_gone(self, redis_store: RedisStore) -> None:
        redis_store.memory.write("a", {}, wake_at=LATER)
        redis_store.memory.cleanup("a")
        redis_store.memory.write("b", {}, wake_at=LATER)
        assert set(hints(redis_store)) == {"b"}

    def test_and_those_of_a_batch(self, redis_store: RedisStore) -> None:
        ids = ["a", "b", "c"]
        for number in range(3):
            with redis_store.memory.leases(ids) as batch:
                batch.commit({id: {"n": number} for id in ids}, wake_at=LATER)
        assert len(members(redis_store)) == 6
        redis_store.memory.write("d", {}, wake_at=LATER)
        assert sorted(member.partition(":")[2] for member in members(redis_store)) == ["a", "b", "c", "d"]

    def test_it_takes_no_round_trip(self, redis_store: RedisStore) -> None:
        redis_store.memory.write("a", {}, wake_at=LATER)
        redis_store.memory.write("a", {}, wake_at=LATER)
        with redis_store.asked() as questions:
            redis_store.memory.write("a", {}, wake_at=LATER)
        assert len(questions) == 2

    def test_that_of_a_timer_that_stays_or_of_a_write_that_is_refused_does_not(self, redis_store: RedisStore) -> None:
        memory = redis_store.memory
        memory.write("a", {}, wake_at=NOW)
        memory.write("a", {})
        with pytest.raises(VersionConflict):
            memory.write("a", {}, wake_at=LATER, expected_version=7)
        memory.write("b", {}, wake_at=LATER)
        assert claimed(memory) == ["a"]

    def test_a_server_that_fails_meanwhile_costs_no_more_than_these(
        self, redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        memory = redis_store.memory
        for _ in range(2):
            memory.write("a", {}, wake_at=NOW)
        with monkeypatch.context() as patch, pytest.raises(WriteError):
            patch.setattr(Hints, "_run", failing)
            memory.write("a", {}, wake_at=LATER)
        assert claimed(memory) == ["a"]

    def test_all_that_are_old_and_wrong_go_when_the_index_is_mended(self, redis_store: RedisStore) -> None:
        memory, other = redis_store.memory, redis_store.new_memory()
        for id in ("moved", "cleared", "gone", "kept"):
            memory.write(id, {}, wake_at=LATER)
        # What is over is known to whoever has ended it.
        other.write("moved", {}, wake_at=timedelta(days=30))
        other.write("cleared", {}, wake_at=None)
        other.cleanup("gone")
        assert list(memory.store.reindex(dry_run=True))
        assert len(members(redis_store)) == 5
        list(memory.store.reindex(dry_run=False))
        assert set(hints(redis_store)) == {"moved", "gone", "kept"}
        assert len(members(redis_store)) == 4, "they are young, and a write may go by them"
        known = {id: redis_store.client.hget(redis_store.key(id), "wake_hint").decode() for id in ("moved", "kept")}
        age(redis_store, 120)
        for id, number in known.items():  # As the hash has aged with its hint.
            redis_store.client.hset(redis_store.key(id), "wake_hint", int(number) - 120_000_000)
        list(memory.store.reindex(dry_run=False))
        assert sorted(member.partition(":")[2] for member in members(redis_store)) == ["kept", "moved"]
        due_at = int(redis_store.client.hget(redis_store.key("moved"), "wake_at"))
        assert hints(redis_store)["moved"] == due_at

    def test_one_with_another_score_than_its_timer_gets_that(self, redis_store: RedisStore) -> None:
        redis_store.memory.write("a", {}, wake_at=NOW)
        (member,) = members(redis_store)
        store: Any = redis_store.memory.store
        redis_store.client.zadd(store._indexes.due.key, {member: 4e15})
        assert claimed(redis_store.memory) == []
        list(redis_store.memory.store.reindex(dry_run=False))
        assert claimed(redis_store.memory) == ["a"]
