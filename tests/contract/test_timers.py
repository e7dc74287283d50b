"""What every store promises of machines that sleep, and of those who claim them."""

import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connections, transaction

from machine_memory import (
    KEEP,
    BaseMachineMemory,
    CorruptRecord,
    InvalidConfiguration,
    InvalidData,
    InvalidTTL,
    LockInTransaction,
    LockLost,
    Metadata,
    VersionConflict,
)
from machine_memory.core.keeper import keeper
from tests.actor import Actor
from tests.conftest import Worker, asynchronous, databases, in_thread, redis_servers
from tests.contract.stores import Store
from tests.core.test_foreign_state import put
from tests.database.store import DatabaseStore

NOW = timedelta(0)
LATER = timedelta(hours=1)


def asleep(memory: BaseMachineMemory, *ids: str, wake_at: Any = NOW) -> None:
    for id in ids:
        memory.write(id, {"id": id}, wake_at=wake_at)


def claimed(memory: BaseMachineMemory | Worker, *args: Any, **options: Any) -> list[str]:
    """Return the ids that can be claimed, and give them back."""
    with memory.claim(*args, **options) as batch:
        return [lease.id for lease in batch]


def left_by_the_dead(store: Store, worker: Worker, *ids: str) -> None:
    """Let somebody have died who held these."""
    for happens in (worker.lock, store.expire):
        for id in ids:
            happens(id)


class TestTimers:
    def test_what_is_due_is_claimed_and_what_sleeps_is_not(self, store: Store) -> None:
        memory = store.memory
        asleep(memory, "due")
        asleep(memory, "later", wake_at=LATER)
        memory.write("awake", {})
        with memory.claim() as batch:
            assert [lease.id for lease in batch] == ["due"]
            assert batch.denied == []
            lease = batch["due"]
            assert (lease.data, lease.version, lease.attempts) == ({"id": "due"}, 1, 1)
            assert lease.wake_at and abs(lease.wake_at.timestamp() - store.now()) < 5
            assert lease.wake_at.utcoffset() == NOW
            assert lease.commit({"n": 2}) == 2
        assert claimed(memory) == []

    def test_a_timedelta_counts_from_the_write(self, store: Store) -> None:
        asleep(store.memory, "a", wake_at=timedelta(seconds=0.3))
        assert claimed(store.memory) == []
        store.wait_until(lambda: claimed(store.memory) == ["a"])

    @pytest.mark.parametrize("hours", [0, 2, -5])
    def test_a_datetime_is_that_moment_in_whatever_zone(self, store: Store, hours: int) -> None:
        zone = timezone(hours)
        moment = datetime.fromtimestamp(store.now(), UTC).replace(microsecond=123_000)
        asleep(store.memory, "due", wake_at=(moment - timedelta(seconds=5)).astimezone(zone))
        asleep(store.memory, "later", wake_at=(moment + timedelta(seconds=30)).astimezone(zone))
        with store.memory.claim() as batch:
            assert [(lease.id, lease.wake_at) for lease in batch] == [("due", moment - timedelta(seconds=5))]

    def test_it_can_be_the_beginning_of_time(self, store: Store) -> None:
        store.memory.write("a", {}, wake_at=datetime(1970, 1, 1, tzinfo=UTC))
        assert [record.id for record in store.memory.find(exhausted=False)] == ["a"]
        assert list(store.memory.find(exhausted=True)) == []
        with store.memory.claim() as batch:
            assert [lease.wake_at for lease in batch] == [datetime(1970, 1, 1, tzinfo=UTC)]

    def test_keep_leaves_it_and_none_ends_it(self, store: Store, worker: Worker) -> None:
        memory = store.memory
        asleep(memory, "kept", "ended")
        memory.write("kept", {"n": 2})
        memory.write("ended", {"n": 2}, wake_at=None)
        with memory.lease("kept") as lease:
            lease.write({"n": 3}, wake_at=KEEP)
            assert (lease.wake_at, lease.attempts) == (None, 0)
            lease.commit({"n": 4})
        assert claimed(memory) == ["kept"]

    def test_each_way_to_write_can_set_it(self, store: Store) -> None:
        memory = store.memory
        memory.write("a", {}, wake_at=NOW, expected_version=0)
        with memory.lease("b") as lease:
            lease.write({}, wake_at=NOW)
        with memory.lease("c") as lease:
            lease.commit({}, wake_at=NOW)
        with memory.lease("d", keep_alive=True) as lease:
            lease.write({}, wake_at=NOW)
        with memory.leases(["e", "f", "g", "h"]) as batch:
            batch.write({"e": {}, "f": {}}, wake_at=NOW)
            batch.commit({"g": {}, "h": {}}, wake_at=NOW)
        assert sorted(claimed(memory)) == list("abcdefgh")
        with memory.leases(list("abcd")) as batch:
            batch.write({"a": {}, "b": {}}, wake_at=None)
            batch.commit({"c": {}, "d": {}}, wake_at=LATER)
        with memory.leases(list("efgh")) as batch:
            batch.commit({id: {} for id in "efgh"}, wake_at=datetime.fromtimestamp(store.now() - 1, UTC))
        assert sorted(claimed(memory)) == list("efgh")

    @asynchronous
    async def test_the_twins_set_it_too(self, store: Store) -> None:
        memory = store.memory
        await memory.awrite("a", {}, wake_at=NOW)
        async with memory.alease("b") as lease:
            await lease.awrite({}, wake_at=LATER)
            await lease.acommit({}, wake_at=NOW)
        async with memory.aleases(["c", "d"]) as batch:
            await batch.awrite({"c": {}}, wake_at=NOW)
            await batch.acommit({"d": {}}, wake_at=NOW)
        async with memory.aclaim() as batch:
            assert sorted(lease.id for lease in batch) == list("abcd")
            await batch.acommit({lease.id: {} for lease in batch})
        async with memory.aclaim() as batch:
            assert len(batch) == 0

    @pytest.mark.parametrize(
        ("wake_at", "sentence"),
        [
            (True, "wake_at must be a timedelta, an aware datetime, None or KEEP, not True"),
            (60, "wake_at must be a timedelta, an aware datetime, None or KEEP, not 60"),
            ("KEEP", "wake_at must be a timedelta, an aware datetime, None or KEEP, not 'KEEP'"),
            (datetime(2030, 1, 1), "wake_at must be an aware datetime, with a time zone"),
            (timedelta(seconds=-1), "wake_at must be between 0 and 3162240000 seconds"),
            (timedelta(days=101 * 366), "wake_at must be between 0 and 3162240000 seconds"),
            (datetime(1969, 1, 1, tzinfo=UTC), "between the years 1970 and 9999, not in 1969"),
        ],
    )
    def test_nonsense_is_refused_with_a_sentence(self, store: Store, wake_at: Any, sentence: str) -> None:
        with store.untouched("a"), pytest.raises(InvalidTTL, match=sentence):
            store.memory.write("a", {}, wake_at=wake_at)

    def test_a_refused_write_leaves_it(self, store: Store, worker: Worker) -> None:
        asleep(store.memory, "a")
        with pytest.raises(VersionConflict):
            store.memory.write("a", {}, expected_version=7, wake_at=LATER)
        assert claimed(store.memory) == ["a"]

    def test_a_sleeping_machine_is_not_idle(self, store: Store) -> None:
        memory = store.memory
        done = Metadata(status="done")
        memory.write("asleep", {}, metadata=done, wake_at=LATER)
        memory.write("awake", {}, metadata=done)
        assert memory.purge_machines(status="done", idle=0, dry_run=True).deleted == 1
        assert memory.purge_machines(status="done", idle=0).deleted == 1
        assert memory.read("asleep") == {}


def timezone(hours: int) -> Any:
    from datetime import timezone

    return timezone(timedelta(hours=hours))


class TestClaiming:
    def test_the_oldest_come_first_and_no_more_than_asked_for(self, store: Store) -> None:
        begin = datetime.fromtimestamp(store.now(), UTC)
        for number in (3, 1, 4, 0, 2):
            asleep(store.memory, f"m{number}", wake_at=begin - timedelta(minutes=10 - number))
        with store.memory.claim(3) as batch:
            assert [lease.id for lease in batch] == ["m0", "m1", "m2"]
            assert claimed(Worker(store.memory), 10) == ["m3", "m4"]

    def test_of_a_status(self, store: Store) -> None:
        for id, status in (("a", "waiting"), ("b", None), ("c", "waiting"), ("d", "new")):
            store.memory.write(id, {}, metadata=Metadata(status=status), wake_at=NOW)
        assert sorted(claimed(store.memory, status="waiting")) == ["a", "c"]
        assert claimed(store.memory, status="done") == []
        assert sorted(claimed(Worker(store.memory), ttl=60)) == ["b", "d"]

    def test_what_somebody_holds_is_left_alone(self, store: Store, worker: Worker) -> None:
        asleep(store.memory, "a", "b")
        worker.lock("a", ttl=60)
        assert claimed(store.memory) == ["b"]
        worker.unlock("a")
        assert claimed(store.memory) == ["a"]

    def test_each_lease_is_an_ordinary_one(self, store: Store, worker: Worker) -> None:
        asleep(store.memory, "a", "b", "c")
        with store.memory.claim(ttl=30, keep_alive=True) as batch:
            assert len({lease._token for lease in batch}) == 3
            assert all(lease.fence > 0 and 29 < lease.remaining <= 30 for lease in batch)
            assert set(batch) <= set(keeper._kept)
            assert worker.lock("a") is False
            assert store.memory.write("a", {"by": "its holder"}) == 2
            batch["b"].renew(60)
            batch["b"].release()
            assert worker.lock("b") is True
            assert batch["c"].commit({}) == 2
            assert claimed(worker) == []
        assert not set(batch) & set(keeper._kept)
        assert [info.id for info in store.memory.held_locks()] == ["b"]

    def test_it_is_due_again_when_its_lease_ends_and_later_each_time(self, store: Store) -> None:
        asleep(store.memory, "a")
        ends = []
        for attempt in range(1, 4):
            with store.memory.claim(ttl=100, max_attempts=4) as batch:
                assert batch["a"].attempts == attempt
            ends.append(wake_of(store, "a") - store.now())
            wake(store, "a")
        assert ends == [pytest.approx(100, abs=5), pytest.approx(200, abs=5), pytest.approx(400, abs=5)]
        with store.memory.claim(ttl=100, max_attempts=4) as batch:
            assert batch["a"].attempts == 4
        assert wake_of(store, "a") is None

    def test_a_worker_that_dies_leaves_it_to_the_next(self, store: Store) -> None:
        asleep(store.memory, "a")
        block = Worker(store.memory).claim(ttl=60)
        block.__enter__()
        assert claimed(store.memory) == []
        block._batch = None
        assert 50 < wake_of(store, "a") - store.now() <= 60
        store.expire("a")
        wake(store, "a")
        assert claimed(store.memory, max_attempts=2) == ["a"]

    def test_a_poisonous_one_is_claimed_so_often_and_no_more(
        self, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        asleep(store.memory, *(f"poison-{number}" for number in range(20)))
        seen: Counter[str] = Counter()
        for _ in range(7):
            with store.memory.claim(ttl=30, max_attempts=5) as batch:
                seen.update(lease.id for lease in batch)
            for lease in batch:
                wake(store, lease.id)
        assert seen == {f"poison-{number}": 5 for number in range(20)}
        assert [text for text in caplog.messages if "last time" in text] == [
            "claimed 20 machines for the last time, after 5 attempts"
        ]
        store.memory.write("healthy", {})
        assert [found.id for found in store.memory.find(exhausted=True)] == sorted(seen)
        assert [found.id for found in store.memory.find(exhausted=False)] == ["healthy"]
        store.memory.write("poison-0", {})
        assert "poison-0" not in [found.id for found in store.memory.find(exhausted=True)]

    def test_an_accepted_write_begins_the_attempts_anew(self, store: Store) -> None:
        asleep(store.memory, "a")
        for _ in range(2):
            claimed(store.memory)
            wake(store, "a")
        store.memory.write("a", {"by": "somebody else"})
        with store.memory.claim() as batch:
            assert batch["a"].attempts == 1

    def test_the_first_write_under_it_ends_the_timer_unless_it_sets_one(self, store: Store) -> None:
        asleep(store.memory, "cleared", "set", "twice", "together")
        with store.memory.claim() as batch:
            batch["cleared"].write({"n": 2})
            batch["set"].commit({"n": 2}, wake_at=LATER)
            batch["twice"].write({"n": 2}, wake_at=LATER)
            batch["twice"].commit({"n": 3})
            batch.commit({"together": {}})
        assert [wake_of(store, id) is None for id in ("cleared", "set", "twice", "together")] == [
            True,
            False,
            False,
            True,
        ]

    def test_a_write_by_the_verb_counts_as_one_under_it(self, store: Store) -> None:
        asleep(store.memory, "a")
        with store.memory.claim() as batch:
            assert len(batch) == 1
            store.memory.write("a", {})
        assert wake_of(store, "a") is None

    def test_the_expired_are_claimed_the_oldest_first(self, store: Store, worker: Worker) -> None:
        for number, id in enumerate("abcd"):
            worker.lock(id, ttl=600 + number)
        worker.lock("live", ttl=3000)
        asleep(store.memory, "due")
        for number, id in enumerate("dcb"):
            store.expire(id, ago=30 - number)
        if store.name == "simple":
            assert claimed(store.memory, 2, expired=True) == ["a", "b"]
            return
        with store.memory.claim(2, expired=True, ttl=60) as batch:
            assert [lease.id for lease in batch] == ["d", "c"]
            assert [(lease.attempts, lease.data) for lease in batch] == [(1, None), (1, None)]
            first, second = (lease.wake_at for lease in batch)
            assert first and second and abs((second - first).total_seconds() - 1) < 0.5
        assert claimed(store.memory, expired=True) == ["b"]
        wake(store, "d")
        assert sorted(claimed(store.memory)) == ["d", "due"]

    def test_of_the_expired_one_that_sleeps_keeps_its_timer(self, store: Store, worker: Worker) -> None:
        asleep(store.memory, "a", wake_at=LATER)
        its_timer = wake_of(store, "a")
        for attempt in (1, 2):
            left_by_the_dead(store, worker, "a")
            with store.memory.claim(expired=True, max_attempts=2) as batch:
                assert [lease.attempts for lease in batch] == [attempt]
            assert wake_of(store, "a") == its_timer
        wake(store, "a")
        assert claimed(store.memory) == ["a"]

    def test_so_it_does_with_a_write_unless_that_sets_one(self, store: Store, worker: Worker) -> None:
        asleep(store.memory, "kept", "set", "ended", wake_at=LATER)
        its_timer = wake_of(store, "kept")
        left_by_the_dead(store, worker, "kept", "set", "ended")
        with store.memory.claim(expired=True) as batch:
            batch.write({"kept": {"n": 2}})
            batch.commit({"kept": {"n": 3}})
            batch["set"].commit({}, wake_at=NOW)
            batch["ended"].commit({}, wake_at=None)
        assert [wake_of(store, id) for id in ("kept", "ended")] == [its_timer, None]
        assert claimed(store.memory) == ["set"]

    def test_of_the_expired_one_whose_timer_went_off_is_due_again(self, store: Store, worker: Worker) -> None:
        asleep(store.memory, "again", "written")
        left_by_the_dead(store, worker, "again", "written")
        with store.memory.claim(expired=True, ttl=100) as batch:
            batch["written"].commit({})
        assert wake_of(store, "again") - store.now() == pytest.approx(100, abs=5)
        assert wake_of(store, "written") is None

    def test_the_expired_are_not_claimed_for_ever(self, store: Store, worker: Worker) -> None:
        worker.lock("a")
        for attempt in (1, 2):
            store.expire("a")
            block = worker.claim(expired=True, max_attempts=2)
            assert [lease.attempts for lease in block.__enter__()] == [attempt]
            block._batch = None
        store.expire("a")
        assert claimed(store.memory, expired=True, max_attempts=2) == []

    @pytest.mark.parametrize(
        ("options", "error", "sentence"),
        [
            ({"limit": 0}, InvalidConfiguration, "limit must be a positive int up to 10000, not 0"),
            ({"limit": 10_001}, InvalidConfiguration, "limit must be a positive int"),
            ({"limit": True}, InvalidConfiguration, "limit must be a positive int"),
            ({"max_attempts": 0}, InvalidConfiguration, "max_attempts must be a positive int"),
            ({"expired": 1}, InvalidConfiguration, "expired must be a bool"),
            ({"ttl": 0}, InvalidTTL, "ttl must be between"),
            ({"status": ""}, InvalidData, "status must not be empty"),
        ],
    )
    def test_nonsense_is_refused_with_a_sentence(
        self, store: Store, options: dict[str, Any], error: type[Exception], sentence: str
    ) -> None:
        with store.untouched(), pytest.raises(error, match=sentence):
            store.memory.claim(**options)

    def test_nobody_claims_in_a_transaction(self, database: DatabaseStore) -> None:
        asleep(database.memory, "a")
        with transaction.atomic(using=database.alias), pytest.raises(LockInTransaction), database.memory.claim():
            pytest.fail("it was entered")
        assert claimed(database.memory) == ["a"]

    def test_a_rolled_back_write_leaves_the_timer_of_the_claim(self, database: DatabaseStore) -> None:
        asleep(database.memory, "a")
        with database.memory.claim() as batch:
            with pytest.raises(ZeroDivisionError), transaction.atomic(using=database.alias):
                batch["a"].write({"n": 2}, wake_at=LATER)
                raise ZeroDivisionError
            batch["a"].write({"n": 3})
        assert wake_of(database, "a") is None


class TestWaysOut:
    def test_an_exception_gives_all_back_and_they_are_due_again(self, store: Store) -> None:
        asleep(store.memory, "a", "b")
        with pytest.raises(ZeroDivisionError), store.memory.claim(ttl=60):
            raise ZeroDivisionError
        assert list(store.memory.held_locks()) == []
        assert wake_of(store, "a") - store.now() > 50

    def test_what_comes_between_the_grant_and_its_answer_gives_all_back(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asleep(store.memory, "a", "b")
        claim = store.memory.store.claim

        def interrupted(*args: Any) -> None:
            assert len(claim(*args)) == 2
            raise KeyboardInterrupt

        monkeypatch.setattr(store.memory.store, "claim", interrupted)
        with pytest.raises(KeyboardInterrupt), store.memory.claim(ttl=60):
            pytest.fail("it was entered")
        store.wait_until(lambda: not list(store.memory.held_locks()))

    def test_what_is_no_state_is_refused_and_given_back(self, store: Store) -> None:
        asleep(store.memory, "a", "b")
        put(store, "a", "[1]")
        with store.memory.claim() as batch:
            assert [lease.id for lease in batch] == ["b"]
            assert isinstance(batch.refused["a"], CorruptRecord)
        store.wait_until(lambda: not list(store.memory.held_locks()))

    def test_a_zombie_changes_nothing(self, store: Store, worker: Worker) -> None:
        asleep(store.memory, "a")
        with store.memory.claim(ttl=60) as batch:
            store.expire("a")
            assert worker.lock("a") is True
            with pytest.raises(LockLost):
                batch["a"].commit({"by": "a zombie"}, wake_at=LATER)
        assert store.memory.read("a") == {"id": "a"}


class TestTogether:
    def test_a_row_in_use_is_passed_over(self, database: DatabaseStore) -> None:
        if database.name == "sqlite":
            pytest.skip("SQLite has no rows to be in use")
        asleep(database.memory, *"abc")
        with transaction.atomic(using=database.alias):
            assert list(database.rows.select_for_update().filter(pk="b"))
            found = in_thread(lambda: claimed(database.new_memory())).result()
        assert sorted(found) == ["a", "c"]

    def test_eight_workers_claim_each_machine_once(self, shared_store: Store) -> None:
        ids = [f"m{number:03}" for number in range(100)]
        with shared_store.memory.leases(ids) as batch:
            batch.commit({id: {} for id in ids}, wake_at=NOW)
        seen: list[str] = []
        start = threading.Barrier(8)

        def drain() -> None:
            memory = shared_store.new_memory()
            start.wait()
            empty = 0
            while empty < 5:
                with memory.claim(10) as batch:
                    seen.extend(lease.id for lease in batch)
                    batch.commit({lease.id: {"done": True} for lease in batch})
                    empty = 0 if len(batch) else empty + 1

        workers = [in_thread(drain) for _ in range(8)]
        for worker in workers:
            worker.result()
        assert sorted(seen) == ids
        assert claimed(shared_store.memory) == []


class TestStatements:
    def test_how_many_a_claim_takes(self, database: DatabaseStore) -> None:
        asleep(database.memory, *(f"m{number}" for number in range(50)))
        with database.asked() as questions, database.memory.claim() as batch:
            assert len(batch) == 50
            batch.commit({lease.id: {} for lease in batch})
        with database.asked() as polling:
            assert claimed(database.memory) == []
        if database.one_statement:
            taken = [text for text in questions if not text.startswith(("BEGIN", "COMMIT", "START", "PRAGMA"))]
            polled = [text for text in polling if not text.startswith(("BEGIN", "COMMIT", "START", "PRAGMA"))]
            expected = {"postgresql": (2, 1), "mariadb": (5, 1), "sqlite": (5, 1)}
            assert (len(taken), len(polled)) == expected[database.name], taken

    def test_how_often_redis_is_asked(self, one_redis: Any) -> None:
        asleep(one_redis.memory, *(f"m{number}" for number in range(50)))
        claimed(one_redis.memory, 1)
        with one_redis.asked() as questions, one_redis.memory.claim(49) as batch:
            assert len(batch) == 49
        assert len(questions) == 4
        with one_redis.asked() as polling:
            assert claimed(one_redis.memory) == []
        assert len(polling) == 1

    def test_a_cycle_without_timers_asks_for_nothing_more(self, redis_store: Any) -> None:
        redis_store.memory.write("a", {})
        with redis_store.asked() as questions, redis_store.memory.lease("a") as lease:
            lease.commit({})
        assert len(questions) == 2


def wake_of(store: Any, id: str) -> Any:
    """Return when a machine is due, in seconds; ``None``: never."""
    if store.name == "simple":
        return store._machines[id].wake_at
    if isinstance(store, DatabaseStore):
        moment = store.rows.values_list("wake_at", flat=True).get(pk=id)
        from machine_memory.backends.database.clock import as_utc

        return moment and as_utc(moment, connections[store.alias]).timestamp()
    stored = store.client.hget(store.key(id), "wake_at")
    return stored and int(stored) / 1_000_000


def wake(store: Any, id: str) -> None:
    """Let the timer of a machine have gone off, if there is one."""
    if wake_of(store, id) is None:
        return
    if store.name == "simple":
        store._machines[id].wake_at = store.clock.now - 1
    elif isinstance(store, DatabaseStore):
        from machine_memory.backends.database.clock import StoreTime

        store.rows.filter(pk=id).update(wake_at=StoreTime(-1))
    else:
        past, key = store._time(1), store.memory.store._indexes.due.key
        store.client.hset(store.key(id), "wake_at", past)
        for member in store.client.zrange(key, 0, -1):
            if member.decode().partition(":")[2] == id:
                store.client.zadd(key, {member: past})


class TestTravel:
    def test_a_claim_that_travels_ends_its_timer_with_the_first_write_too(self, store: Store) -> None:
        asleep(store.memory, "a", "b")
        with store.memory.claim(ttl=30) as batch:
            texts = {lease.id: lease.detach() for lease in batch}
        with store.memory.attach(texts["a"]) as lease:
            lease.commit({"n": 1})
        with store.memory.attach(texts["b"]) as lease:
            lease.commit({"n": 1}, wake_at=LATER)
        for id in "ab":
            store.memory.write(id, {"n": 2})
        wake(store, "b")
        assert claimed(store.memory) == ["b"]

    def test_a_claim_that_left_a_timer_alone_leaves_it_where_it_travels_to(self, store: Store, worker: Worker) -> None:
        asleep(store.memory, "a", wake_at=LATER)
        its_timer = wake_of(store, "a")
        left_by_the_dead(store, worker, "a")
        with store.memory.claim(expired=True, ttl=30) as batch:
            text = batch["a"].detach()
        with store.memory.attach(text) as lease:
            lease.commit({"n": 2})
        assert wake_of(store, "a") == its_timer


@pytest.mark.parametrize("shared_store", [*databases(forms=("",)), *redis_servers()[:1]], indirect=True)
class TestProcesses:
    MACHINES = 200

    def test_those_that_drain_together_have_each_machine_once(self, shared_store: Store) -> None:
        ids = [f"order-{number:03}" for number in range(self.MACHINES)]
        for id in ids:
            shared_store.memory.write(id, {"n": 0}, wake_at=NOW)
        actors = [Actor(shared_store.alias) for _ in range(4)]
        try:
            for actor in actors:
                actor.tell("run", "tests.contract.batching.drain", shared_store.alias)
            done = [actor.answer() for actor in actors]
        finally:
            for actor in actors:
                actor.__exit__()
        assert sum(done) == self.MACHINES
        assert [shared_store.memory.read(id) for id in ids] == [{"n": 1}] * self.MACHINES
