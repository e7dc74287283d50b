"""The indexes of children and trees: hints, and a hash that knows better."""

from io import StringIO
from typing import Any

import pytest
import redis
from django.core.management import CommandError, call_command
from django.test import override_settings

from machine_memory import LockNotHeld, Metadata, WriteError
from machine_memory.backends.redis import scripts
from machine_memory.backends.redis.hints import DECIDED, Hints
from machine_memory.backends.redis.relatives import CHILDREN, TREE, Relatives
from tests.conftest import Worker
from tests.contract.suite import HOSTILE_IDS
from tests.contract.test_timers import NOW, claimed
from tests.redis.store import RedisStore, amid_each_write

OLD = DECIDED + 1_000_000


def index(store: Any, name: str, id: str) -> str:
    return str(store.memory.store._hashes.beside(name, id))


def hints(store: Any, name: str, id: str) -> set[str]:
    return {member.decode() for member in store.client.zrange(index(store, name, id), 0, -1)}


def age(store: Any, name: str, id: str, microseconds: int = OLD) -> None:
    """Let every hint of an index have been written so long ago."""
    key = index(store, name, id)
    for member, score in store.client.zrange(key, 0, -1, withscores=True):
        store.client.zadd(key, {member: score - microseconds})


def family(memory: Any) -> None:
    """Write a root with two children, and a grandchild."""
    memory.write("root", {})
    for id, parent in (("a", "root"), ("b", "root"), ("aa", "a")):
        memory.write(id, {}, metadata=Metadata(parent=parent))


def reindexed(store: Any, **options: Any) -> str:
    output = StringIO()
    call_command("machine_memory_reindex", memory=store.alias, stdout=output, **options)
    return output.getvalue()


class TestListing:
    def test_children_are_asked_for_by_their_hints_alone(self, redis_store: RedisStore) -> None:
        family(redis_store.memory)
        for number in range(300):
            redis_store.memory.write(f"other {number}", {})
        with redis_store.asked() as questions:
            assert redis_store.memory.children("root") == ["a", "b"]
            assert redis_store.memory.tree("root") == ["a", "aa", "b", "root"]
        assert not [question for question in questions if "\\nSCAN\\r" in question]
        assert len(questions) <= 2 * (1 + redis_store.nodes)

    def test_any_id_can_be_one(self, redis_store: RedisStore) -> None:
        for id in HOSTILE_IDS:
            redis_store.memory.write(id, {}, metadata=Metadata(parent="(tree)"))
            redis_store.memory.write("child of " + id[:400], {}, metadata=Metadata(parent=id))
        assert redis_store.memory.children("(tree)") == sorted(HOSTILE_IDS)
        for id in HOSTILE_IDS:
            assert redis_store.memory.children(id) == ["child of " + id[:400]]

    def test_more_than_a_look_brings_are_found(self, redis_store: RedisStore) -> None:
        ids = sorted(f"child {number}" for number in range(1500))
        for some in (ids[:500], ids[500:1000], ids[1000:]):
            with redis_store.memory.leases(some) as batch:
                batch.commit({id: {} for id in some}, metadata=Metadata(parent="root"))
        assert redis_store.memory.children("root") == redis_store.memory.tree("root") == ids

    def test_it_is_said_once_and_a_machine_with_relatives_says_nothing_more(self, redis_store: RedisStore) -> None:
        family(redis_store.memory)
        with redis_store.asked() as questions:
            redis_store.memory.write("aa", {"n": 2}, metadata=Metadata(parent="a"))
        assert scripts.HINT.digest not in "".join(questions)
        with redis_store.memory.lease("aa") as lease, redis_store.asked() as questions:
            lease.commit({"n": 3}, metadata=Metadata(parent="a"))
        assert len(questions) == 1


class TestHints:
    def test_the_hint_of_a_write_that_is_on_its_way_stays(self, redis_store: RedisStore) -> None:
        memory, other = redis_store.memory, redis_store.new_memory()
        seen: list[list[str]] = []
        with amid_each_write(memory, lambda: seen.append(other.children("root"))):
            memory.write("a", {}, metadata=Metadata(parent="root"))
        assert seen == [[]]
        assert other.children("root") == ["a"]

    def test_no_first_write_goes_by_one_that_may_have_gone(
        self, redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        announce = Relatives.announce
        asked = []

        def late(relatives: Any, relations: Any) -> str:
            asked.append(relations)
            return str(int(announce(relatives, relations)) - scripts.MOST_AGE - 1)

        monkeypatch.setattr(Relatives, "announce", late)
        with pytest.raises(WriteError, match="came too late 5 times. Nothing was changed"):
            redis_store.memory.write("a", {}, metadata=Metadata(parent="root"))
        assert len(asked) == 5
        assert redis_store.memory.read("a") is None

    def test_nor_does_one_of_what_was_removed_since_it_was_looked_at(self, redis_store: RedisStore) -> None:
        memory, other = redis_store.memory, redis_store.new_memory()
        memory.write("a", {}, metadata=Metadata(parent="root"))
        removed: list[bool] = []

        def remove() -> None:
            if not removed:
                removed.append(other.cleanup("a"))
                redis_store.client.delete(index(redis_store, CHILDREN, "root"), index(redis_store, TREE, "root"))

        with amid_each_write(memory, remove):
            assert memory.write("a", {"n": 2}, metadata=Metadata(parent="root")) == 1
        assert other.children("root") == other.tree("root") == ["a"]

    @pytest.mark.parametrize("gone", ["cleaned up", "refused"])
    def test_one_that_is_wrong_goes_once_it_is_old(self, redis_store: RedisStore, gone: str) -> None:
        memory = redis_store.memory
        if gone == "refused":
            Worker(memory).lock("a")
            with pytest.raises(LockNotHeld):
                memory.write("a", {}, metadata=Metadata(parent="root"))
        else:
            memory.write("a", {}, metadata=Metadata(parent="root"))
            memory.cleanup("a")
        for name, look in ((CHILDREN, memory.children), (TREE, memory.tree)):
            assert look("root") == []
            assert hints(redis_store, name, "root") == {"a"}
            age(redis_store, name, "root")
            assert look("root") == []
            assert hints(redis_store, name, "root") == set()

    def test_but_only_as_it_was_seen(self, redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
        memory, other = redis_store.memory, redis_store.new_memory()
        memory.write("a", {}, metadata=Metadata(parent="root"))
        memory.cleanup("a")
        age(redis_store, CHILDREN, "root")
        mend = Hints.mend

        def paused(index: Any, scores: Any) -> int:
            with monkeypatch.context() as patch:
                patch.setattr(Hints, "mend", mend)
                other.write("a", {}, metadata=Metadata(parent="root"))
            return mend(index, scores)

        monkeypatch.setattr(Hints, "mend", paused)
        assert memory.children("root") == []
        assert memory.children("root") == ["a"]

    def test_where_it_cannot_go_the_listing_stands(
        self, redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def failing(*args: Any) -> None:
            raise redis.ConnectionError

        family(redis_store.memory)
        monkeypatch.setattr(Hints, "mend", failing)
        monkeypatch.setattr(Relatives, "forget", failing)
        assert redis_store.memory.cleanup("b") is True
        assert redis_store.memory.children("root") == ["a"]

    def test_what_is_purged_is_forgotten(self, redis_store: RedisStore) -> None:
        memory = redis_store.memory
        for number in range(5):
            memory.write(
                f"m{number}", {"status": "done"}, metadata=Metadata(status="done", parent=f"root {number % 2}")
            )
        memory.write("kept", {}, metadata=Metadata(parent="root 0"))
        for root in ("root 0", "root 1"):
            age(redis_store, CHILDREN, root)
        assert memory.purge_machines(status="done", idle=0).deleted == 5
        assert hints(redis_store, CHILDREN, "root 0") == {"kept"}
        assert hints(redis_store, CHILDREN, "root 1") == set()
        assert hints(redis_store, TREE, "root 1") == {"m1", "m3"}, "they are young, and a write may go by them"

    def test_so_is_what_is_cleaned_up(self, redis_store: RedisStore) -> None:
        family(redis_store.memory)
        age(redis_store, CHILDREN, "root")
        redis_store.memory.cleanup("a")
        assert hints(redis_store, CHILDREN, "root") == {"b"}


class TestReindex:
    def forgotten(self, store: Any) -> None:
        """Let machines have been written before there were indexes."""
        family(store.memory)
        store.memory.write("due", {}, wake_at=NOW)
        keys = [key for key in store._keys() if b":machine:(" in key]
        assert len(keys) == 4
        for key in keys:
            store.client.delete(key)
        store.client.hdel(store.key("due"), "wake_hint")

    def test_what_was_written_before_is_found_afterwards(self, redis_store: RedisStore) -> None:
        memory = redis_store.memory
        self.forgotten(redis_store)
        assert memory.children("root") == []
        assert claimed(memory) == []
        assert reindexed(redis_store, dry_run=True).endswith(": 5 machines looked at, 7 hints are lacking.\n")
        assert memory.children("root") == []

        assert reindexed(redis_store).endswith(": 5 machines looked at, 7 hints were added.\n")
        assert memory.children("root") == ["a", "b"]
        assert memory.tree("root") == ["a", "aa", "b", "root"]
        assert claimed(memory) == ["due"]
        assert reindexed(redis_store).endswith(": 5 machines looked at, 0 hints were added.\n")

    def test_a_timer_that_is_claimed_meanwhile_is_left_alone(self, redis_store: RedisStore) -> None:
        redis_store.memory.write("a", {}, wake_at=NOW)
        assert claimed(redis_store.memory, ttl=600) == ["a"]
        reindexed(redis_store)
        assert claimed(redis_store.memory) == []

    def test_what_is_left_of_machines_that_are_gone_goes(self, redis_store: RedisStore) -> None:
        family(redis_store.memory)
        redis_store.memory.cleanup("a")
        age(redis_store, CHILDREN, "root")
        reindexed(redis_store)
        assert hints(redis_store, CHILDREN, "root") == {"b"}
        assert hints(redis_store, TREE, "root") == {"a", "aa", "b"}, "they are young, and a write may go by them"

    def test_progress_is_shown_on_a_terminal(self, redis_store: RedisStore) -> None:
        family(redis_store.memory)
        terminal = StringIO()
        terminal.isatty = lambda: True  # type: ignore[method-assign]
        reindexed(redis_store, stderr=terminal)
        assert f"\r{redis_store.alias}: 4 machines looked at, 0 hints lacking" in terminal.getvalue()

    @pytest.mark.django_db
    def test_another_store_has_nothing_to_index(self) -> None:
        output = StringIO()
        with override_settings(MACHINE_MEMORIES={"default": {}}):
            call_command("machine_memory_reindex", stdout=output)
        assert output.getvalue() == "default: 0 machines looked at, 0 hints were added.\n"

    def test_a_store_that_fails_is_an_error(self) -> None:
        backend = "machine_memory.backends.redis.RedisMachineMemory"
        down = {"down": {"BACKEND": backend, "OPTIONS": {"cluster": ["redis://127.0.0.1:1"]}}}
        with override_settings(MACHINE_MEMORIES=down), pytest.raises(CommandError, match="down: .*NotConnected"):
            call_command("machine_memory_reindex")
