"""What every store promises of machines that come from another one."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from machine_memory import Metadata, WriteError
from machine_memory.backends.database.queries import MachineQuerySet
from machine_memory.backends.redis import scripts
from machine_memory.core.records import Snapshot
from tests.conftest import Worker, databases, in_thread
from tests.contract.stores import Store
from tests.database.store import DatabaseStore
from tests.redis.store import RedisStore

MICROSECONDS = datetime(2024, 2, 29, 23, 59, 59, 123456, UTC)
TEXT = '{"b": 1.50,\n "a": [1e3, -0.0, 12345678901234567890], "é😀": "\\u00e9"}'


def snapshot(id: str = "a", **changes: Any) -> Snapshot:
    known = Snapshot(
        id=id,
        text=TEXT,
        version=7,
        fence=1_700_000_000_000_000,
        status="new",
        source="shop",
        initiator=None,
        parent="parent",
        root="root",
        created_at=MICROSECONDS,
        written_at=MICROSECONDS + timedelta(days=1),
        wake_at=MICROSECONDS + timedelta(days=2),
        attempts=3,
    )
    return replace(known, **changes)


def exported(store: Store, *ids: str) -> dict[str, Snapshot]:
    return {machine.id: machine for machine in store.memory.store.export(ids)}


class TestExporting:
    def test_all_that_is_known_of_a_machine_with_state(self, store: Store) -> None:
        memory = store.memory
        memory.write("parent", {})
        metadata = Metadata(status="new", source="shop", initiator="clerk", parent="parent")
        memory.write("a", {"b": 1, "a": 2.0}, metadata=metadata, wake_at=datetime(2001, 1, 1, tzinfo=UTC))
        memory.lock("locked")
        with memory.claim(ttl=10):
            pass
        found = exported(store, "a", "parent", "locked", "absent")

        assert set(found) == {"a", "parent"}
        record, machine = memory.record("a"), found["a"]
        assert record is not None
        assert machine.text == '{"b":1,"a":2.0}'
        assert machine.attempts == 1
        assert machine.wake_at is not None and machine.wake_at > record.written_at
        for name in ("version", "fence", "status", "source", "initiator", "parent", "root", "created_at", "written_at"):
            assert getattr(machine, name) == getattr(record, name), name
        assert (found["parent"].wake_at, found["parent"].attempts, found["parent"].parent) == (None, 0, None)

    def test_nothing_of_nothing(self, store: Store) -> None:
        assert store.memory.store.export([]) == []


class TestAdopting:
    def test_it_is_as_it_was_elsewhere(self, store: Store) -> None:
        machines = [snapshot(), snapshot("é :😀", status=None, parent=None, root="é :😀", wake_at=None, attempts=0)]

        assert store.memory.store.adopt(machines) == {"a", "é :😀"}
        found = exported(store, "a", "é :😀")
        assert {id: replace(one, fence=0) for id, one in found.items()} == {
            one.id: replace(one, fence=0) for one in machines
        }
        assert all(one.fence >= snapshot().fence for one in found.values())
        assert list(store.memory.read("a") or ()) == ["b", "a", "é😀"]
        assert store.memory.children("parent") == ["a"]
        assert store.memory.tree("root") == ["a"]
        assert [found.id for found in store.memory.find(status="new")] == ["a"]

    def test_it_goes_on_from_there(self, store: Store) -> None:
        store.memory.store.adopt([snapshot()])
        with store.memory.claim() as due:
            assert [(lease.id, lease.attempts, lease.wake_at) for lease in due] == [("a", 4, snapshot().wake_at)]
            assert due["a"].fence > snapshot().fence
            due["a"].commit({"status": "done"})
        record = store.memory.record("a")
        assert record is not None
        assert (record.version, record.status, record.created_at) == (8, "done", MICROSECONDS)

    def test_nothing_of_nothing(self, store: Store) -> None:
        assert store.memory.store.adopt([]) == set()

    def test_an_older_one_is_replaced_as_a_whole(self, store: Store) -> None:
        memory = store.memory
        memory.write("a", {"n": 1}, metadata=Metadata(initiator="clerk", parent="other"))
        memory.write("a", {"n": 2}, wake_at=timedelta(days=1))
        before = exported(store, "a")["a"]
        plain = snapshot(wake_at=None, attempts=0)

        assert memory.store.adopt([plain]) == {"a"}
        assert exported(store, "a")["a"] == replace(plain, fence=max(plain.fence, before.fence))
        assert memory.children("other") == []
        assert memory.children("parent") == ["a"]
        assert memory.store.adopt([plain]) == set()

    def test_one_that_is_not_newer_changes_nothing(self, store: Store) -> None:
        store.memory.store.adopt([snapshot()])
        known = exported(store, "a")["a"]
        others = [replace(known, text="{}", version=6, fence=known.fence + 1), replace(known, text="{}")]
        for other in others:
            assert store.memory.store.adopt([other]) == set()
        assert exported(store, "a") == {"a": known}

    def test_a_later_lease_of_the_same_state_brings_its_timer(self, store: Store) -> None:
        store.memory.store.adopt([snapshot()])
        known = exported(store, "a")["a"]
        claimed = replace(known, fence=known.fence + 1, attempts=4, wake_at=None)
        assert store.memory.store.adopt([claimed]) == {"a"}
        assert exported(store, "a") == {"a": claimed}

    def test_what_somebody_holds_is_left_as_it_is_and_the_others_are_not(self, store: Store, worker: Worker) -> None:
        worker.write("a", {"by": "another"})
        worker.lock("a")
        worker.lock("unwritten")
        machines = [snapshot(), snapshot("b"), snapshot("unwritten")]

        assert store.memory.store.adopt(machines) == {"b"}
        assert store.memory.read("a") == {"by": "another"}
        assert store.memory.read("unwritten") is None
        worker.unlock("a")
        store.expire("unwritten")
        assert store.memory.store.adopt(machines) == {"a", "unwritten"}
        assert list(store.memory.held_locks()) == []

    def test_no_fence_becomes_lower(self, store: Store, worker: Worker) -> None:
        with worker.lease("a") as lease:
            fence = lease.fence
        low = snapshot(fence=5)
        store.memory.store.adopt([low])
        assert exported(store, "a")["a"].fence == fence
        store.memory.cleanup("a")
        store.memory.store.adopt([replace(low, fence=fence + 10)])
        with worker.lease("a") as lease:
            assert lease.fence > fence + 10

    def test_it_costs_as_many_statements_however_many_there_are(self, shared_store: Store) -> None:
        several = [snapshot(f"m{number:03}") for number in range(40)]
        later = [replace(machine, version=8) for machine in several]
        store = shared_store.memory.store
        with shared_store.asked() as adopting:
            assert len(store.adopt(several)) == 40
        with shared_store.asked() as replacing:
            assert len(store.adopt(later)) == 40
        with shared_store.asked() as exporting:
            assert len(store.export([machine.id for machine in several])) == 40
        if isinstance(shared_store, DatabaseStore):
            # To begin and to end, what has the database to itself, what is there, and what is stored.
            assert (len(adopting) <= 5, len(replacing) <= 5, len(exporting)) == (True, True, 1), adopting
        else:
            assert max(map(len, (adopting, replacing, exporting))) <= 8 * shared_store.nodes


class TestDatabases:
    @pytest.mark.parametrize("database", databases("postgresql", "mariadb", forms=("",)), indirect=True)
    def test_a_machine_that_appears_meanwhile_is_not_overwritten(
        self, database: DatabaseStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        create = MachineQuerySet.bulk_create
        locked: list[bool] = []

        def late(rows: Any, *args: Any, **options: Any) -> Any:
            if not locked:
                locked.append(in_thread(lambda: database.memory.lock("a")).result())
            return create(rows, *args, **options)

        monkeypatch.setattr(MachineQuerySet, "bulk_create", late)
        assert database.memory.store.adopt([snapshot(), snapshot("b")]) == {"b"}
        assert locked == [True]
        assert [info.id for info in database.memory.held_locks()] == ["a"]

    @pytest.mark.parametrize("database", databases("postgresql", "mariadb", forms=("",)), indirect=True)
    def test_what_the_database_refuses_is_told_and_nothing_is_stored(self, database: DatabaseStore) -> None:
        step = database.memory.steps("adopt", "machines", WriteError, "copy")
        with pytest.raises(WriteError, match="The store failed to copy 'machines'"), step:
            database.memory.store.adopt([snapshot("b"), snapshot(text="{")])
        assert database.count() == 0


class TestRedis:
    def test_a_machine_that_had_no_state_does_not_expire(self, redis_store: RedisStore) -> None:
        redis_store.memory.lock("a")
        redis_store.memory.unlock("a")
        assert redis_store.client.pttl(redis_store.key("a")) > 0
        redis_store.memory.store.adopt([snapshot()])
        assert redis_store.client.pttl(redis_store.key("a")) == -1

    @pytest.mark.parametrize("machine", [snapshot(parent=None), snapshot(wake_at=None)], ids=["timer", "relatives"])
    def test_nothing_goes_by_a_hint_that_may_have_gone(
        self, redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch, machine: Snapshot
    ) -> None:
        store: Any = redis_store.memory.store
        ahead, asked = store._indexes.go_ahead_of, []

        def late(machines: Any) -> Any:
            asked.append(1)
            timers, related = ahead(machines)
            if len(asked) > most:
                return timers, related
            return {id: _before(number) for id, number in timers.items()}, related and _before(related)

        monkeypatch.setattr(store._indexes, "go_ahead_of", late)
        most = 9
        with pytest.raises(WriteError, match="The hints that go ahead of 'a' came too late 5 times"):
            store.adopt([machine])
        assert len(asked) == 5
        most = 6
        assert store.adopt([machine]) == {"a"}
        assert exported(redis_store, "a") == {"a": machine}


def _before(number: str) -> str:
    return str(int(number) - scripts.MOST_AGE - 1)
