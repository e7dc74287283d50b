"""What every store promises of many machines at once."""

from typing import Any

import pytest
from django.db import transaction

from machine_memory import (
    BaseMachineMemory,
    CommitRefused,
    CorruptRecord,
    InvalidData,
    InvalidMachineId,
    InvalidTTL,
    LockInTransaction,
    LockLost,
    LockNotHeld,
    MachineMemoryError,
    Metadata,
    VersionConflict,
)
from tests.actor import Actor
from tests.conftest import Worker, asynchronous, databases, redis_servers
from tests.contract.batching import IDS as IDS_OF_PROCESSES
from tests.contract.stores import Store
from tests.core.test_foreign_state import put
from tests.database.store import DatabaseStore

IDS = [f"order-{number:03}" for number in range(5)]


def written(memory: BaseMachineMemory, ids: list[str]) -> None:
    for number, id in enumerate(ids):
        memory.write(id, {"n": number})


class TestTaking:
    def test_all_that_can_be_had_are_held_with_their_states_in_the_order_asked(
        self, store: Store, worker: Worker
    ) -> None:
        written(store.memory, IDS[:3])
        worker.lock(IDS[1])
        with store.memory.leases([*reversed(IDS), IDS[0]], ttl=30) as batch:
            assert [lease.id for lease in batch] == [IDS[4], IDS[3], IDS[2], IDS[0]]
            assert [lease.data for lease in batch] == [None, None, {"n": 2}, {"n": 0}]
            assert [lease.version for lease in batch] == [0, 0, 1, 1]
            assert batch.denied == [IDS[1]]
            assert (len(batch), IDS[0] in batch, IDS[1] in batch) == (4, True, False)
            assert 29 < batch.remaining <= 30
            assert batch[IDS[2]].ttl == 30
            assert worker.lock(IDS[2]) is False
            assert store.memory.write(IDS[3], {"by": "its holder"}) == 1
        assert [info.id for info in store.memory.held_locks()] == [IDS[1]]

    def test_fences_go_on_growing_and_what_had_expired_is_taken_over(
        self, store: Store, worker: Worker, caplog: pytest.LogCaptureFixture
    ) -> None:
        with store.memory.leases(IDS) as batch:
            fences = {lease.id: lease.fence for lease in batch}
        worker.lock(IDS[0])
        worker.lock(IDS[1])
        for id in IDS[:2]:
            store.expire(id)
        with store.memory.leases(IDS) as batch:
            assert all(lease.fence > fences[lease.id] for lease in batch)
        assert [text for text in caplog.messages if "took over" in text] == [
            "took over 2 machines from leases that expired"
        ]

    def test_an_empty_one_asks_for_nothing(self, store: Store) -> None:
        with store.untouched(), store.memory.leases([]) as batch:
            assert (list(batch), batch.denied, batch.remaining) == ([], [], 0.0)
            assert batch.commit({}) == {}

    @pytest.mark.parametrize("store", ["simple", *databases(forms=("",)), *redis_servers()[:1]], indirect=True)
    def test_ten_thousand_ids(self, store: Store) -> None:
        ids = [f"m{number}" for number in range(10_000)]
        with store.memory.leases(ids, ttl=600) as batch:
            assert [lease.id for lease in batch] == ids
            assert len(batch.commit({id: {} for id in ids})) == len(ids)
        assert store.memory.record(ids[-1])

    def test_the_same_id_in_two_batches_is_in_one_of_them(self, store: Store, worker: Any) -> None:
        with store.memory.leases(IDS[:3]) as batch, worker.leases(IDS[2:]) as other:
            assert [lease.id for lease in batch] == IDS[:3]
            assert ([lease.id for lease in other], other.denied) == (IDS[3:], [IDS[2]])

    @pytest.mark.parametrize("ids", ["order-1", b"order-1", 1, None])
    def test_ids_are_several(self, store: Store, ids: Any) -> None:
        with (
            store.untouched(),
            pytest.raises(InvalidMachineId, match="ids must be several ids, such as a list of them"),
        ):
            store.memory.leases(ids)

    def test_each_is_checked_before_any_is_asked_for(self, store: Store) -> None:
        with store.untouched(), pytest.raises(InvalidMachineId, match="must not be empty"):
            store.memory.leases(["a", ""])
        with store.untouched(), pytest.raises(InvalidTTL):
            store.memory.leases(["a"], ttl=0)

    def test_what_is_no_state_is_refused_and_given_back(self, store: Store) -> None:
        written(store.memory, IDS[:2])
        put(store, IDS[0], "[1]")
        with store.memory.leases(IDS[:2]) as batch:
            assert [lease.id for lease in batch] == [IDS[1]]
            assert isinstance(batch.refused[IDS[0]], CorruptRecord)
        store.wait_until(lambda: not list(store.memory.held_locks()))


class TestCommitting:
    def test_writes_and_releases_all(self, store: Store, worker: Worker) -> None:
        written(store.memory, IDS[:2])
        with store.memory.leases(IDS) as batch:
            versions = batch.commit({lease.id: {"by": lease.id, "é😀": [1.0, "\\u0000"[:1]]} for lease in batch})
            assert versions == batch.committed == {**dict.fromkeys(IDS[:2], 2), **dict.fromkeys(IDS[2:], 1)}
            assert worker.lock(IDS[0]) is True
        for id in IDS:
            assert store.memory.read(id) == {"by": id, "é😀": [1.0, "\\"]}
        assert [info.id for info in store.memory.held_locks()] == [IDS[0]]

    def test_writes_and_stays_the_holder(self, store: Store, worker: Worker) -> None:
        with store.memory.leases(IDS) as batch:
            assert batch.write({id: {"n": 1} for id in IDS}) == dict.fromkeys(IDS, 1)
            assert batch.write({id: {"n": 2} for id in IDS[:2]}) == dict.fromkeys(IDS[:2], 2)
            assert [lease.version for lease in batch] == [2, 2, 1, 1, 1]
            assert batch[IDS[0]].commit({"n": 3}) == 3
            assert worker.lock(IDS[1]) is False
            assert batch.commit({id: {"n": 4} for id in IDS[1:]}) == {IDS[1]: 3, **dict.fromkeys(IDS[2:], 2)}
        assert [store.memory.read(id) for id in IDS] == [{"n": 3}, *[{"n": 4}] * 4]

    def test_labels_and_relatives_are_those_of_a_write_alone(self, store: Store) -> None:
        memory = store.memory
        memory.write("grand", {}, metadata=Metadata(parent="root"))
        with memory.leases(["a", "b", "c", "d"]) as batch:
            batch.commit(
                {
                    "a": {"status": "new", "parentSubject": "b"},
                    "b": {"parentSubject": "grand"},
                    "c": {"parentSubject": "unknown"},
                    "d": {},
                },
                metadata=Metadata(source="shop"),
            )
        records = [memory.record(id) for id in "abcd"]
        assert [(r.status, r.source, r.parent, r.root) for r in records if r] == [
            ("new", "shop", "b", "root"),
            (None, "shop", "grand", "root"),
            (None, "shop", "unknown", "unknown"),
            (None, "shop", None, "d"),
        ]

    def test_refused_is_each_alone_and_the_others_are_stored(
        self, store: Store, worker: Worker, caplog: pytest.LogCaptureFixture
    ) -> None:
        written(store.memory, IDS)
        with store.memory.leases(IDS) as batch:
            worker.force_unlock(IDS[0])
            worker.write(IDS[0], {"by": "another"})
            store.memory.write(IDS[1], {"by": "the same context"})
            batch[IDS[1]]._state = (type(batch[IDS[1]]._standing)(version=1), ())
            states: dict[str, Any] = {id: {"by": "the batch"} for id in IDS}
            states[IDS[2]] = {"no": {1}}
            states["other"] = {}
            with pytest.raises(
                CommitRefused, match="4 of 6 machines were refused to commit; the others are done"
            ) as refused:
                batch.commit(states)
            assert {id: type(error) for id, error in batch.refused.items()} == {
                IDS[0]: LockLost,
                IDS[1]: VersionConflict,
                IDS[2]: InvalidData,
                "other": LockNotHeld,
            }
            assert batch.committed == {IDS[3]: 2, IDS[4]: 2}
            assert set(refused.value.exceptions) == set(batch.refused.values())
            assert isinstance(refused.value, MachineMemoryError)
            lost, others = refused.value.split(LockLost)
            assert isinstance(lost, CommitRefused) and isinstance(others, CommitRefused)
        assert [store.memory.read(id) for id in IDS] == [
            {"by": "another"},
            {"by": "the same context"},
            {"n": 2},
            {"by": "the batch"},
            {"by": "the batch"},
        ]
        assert list(store.memory.held_locks()) == []
        assert "refused to write 2 of 4 machines: 1 conflict, 1 lost" in caplog.text

    def test_a_zombie_within_a_batch_changes_nothing(self, shared_store: Store) -> None:
        store, worker = shared_store, Worker(shared_store.memory)
        with store.memory.leases(IDS) as batch:
            store.expire(IDS[2])
            assert worker.lock(IDS[2]) is True
            with pytest.raises(CommitRefused) as refused:
                batch.commit({id: {} for id in IDS})
            (error,) = refused.value.exceptions
            assert isinstance(error, LockLost)
        assert store.memory.read(IDS[2]) is None
        assert [info.id for info in store.memory.held_locks()] == [IDS[2]]

    def test_renews_all_or_says_which_are_lost(self, store: Store, worker: Worker) -> None:
        with store.memory.leases(IDS, ttl=5) as batch:
            batch.renew(60)
            assert 59 < batch.remaining <= 60
            worker.force_unlock(IDS[1])
            with pytest.raises(CommitRefused, match="1 of 5 machines were refused to renew"):
                batch.renew(90)
            assert isinstance(batch.refused[IDS[1]], LockLost)
            assert batch[IDS[0]].remaining > 89

    def test_releases_what_is_left(self, store: Store, worker: Worker) -> None:
        with store.memory.leases(IDS) as batch:
            batch.commit({IDS[0]: {}})
            assert batch.release() is True
            assert batch.release() is True
            assert worker.lock(IDS[1]) is True
            with pytest.raises(LockLost):
                batch[IDS[2]].write({})


class TestWaysOut:
    def test_an_exception_of_the_block_is_the_one_that_is_seen(self, store: Store) -> None:
        with pytest.raises(ZeroDivisionError), store.memory.leases(IDS):
            raise ZeroDivisionError
        assert list(store.memory.held_locks()) == []

    def test_what_comes_between_the_grant_and_the_block_gives_all_back(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(*args: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("machine_memory.core.batch.Batch._begin", interrupted)
        with pytest.raises(KeyboardInterrupt), store.memory.leases(IDS):
            pytest.fail("it was entered")
        store.wait_until(lambda: not list(store.memory.held_locks()))

    def test_what_is_kept_alive_is_no_more_when_the_block_ends(self, store: Store) -> None:
        from machine_memory.core.keeper import keeper

        with store.memory.leases(IDS, ttl=30, keep_alive=True) as batch:
            assert set(batch) <= set(keeper._kept)
            batch.write({IDS[0]: {}})
        assert not set(batch) & set(keeper._kept)

    @asynchronous
    async def test_a_task_does_the_same(self, store: Store) -> None:
        async with store.memory.aleases(IDS, ttl=30) as batch:
            await batch.awrite({IDS[0]: {"n": 1}})
            await batch.arenew(60)
            assert await batch.acommit({id: {"n": 2} for id in IDS}) == {IDS[0]: 2, **dict.fromkeys(IDS[1:], 1)}
        async with store.memory.aleases(IDS) as batch:
            assert [lease.data for lease in batch] == [{"n": 2}] * 5
            assert await batch.arelease() is True


class TestTransactions:
    def test_a_batch_is_not_taken_in_one(self, database: DatabaseStore) -> None:
        block = database.memory.leases(IDS)
        with transaction.atomic(using=database.alias), pytest.raises(LockInTransaction), block:
            pytest.fail("it was entered")

    def test_what_is_refused_rolls_everything_back(self, database: DatabaseStore) -> None:
        written(database.memory, IDS)
        with database.memory.leases(IDS) as batch:
            Worker(database.memory).force_unlock(IDS[0])
            with pytest.raises(CommitRefused), transaction.atomic(using=database.alias):
                batch.commit({id: {"by": "the batch"} for id in IDS})
            assert database.memory.read(IDS[1]) == {"n": 1}
            assert batch[IDS[1]].data == {"n": 1}
            assert batch[IDS[1]].commit({"by": "it alone"}) == 2
        assert list(database.memory.held_locks()) == []


class TestStatements:
    def test_a_batch_of_a_hundred_known_machines(self, shared_store: Store) -> None:
        ids = [f"m{number:03}" for number in range(100)]
        with shared_store.memory.leases(ids) as batch:
            batch.commit({id: {"n": 1} for id in ids})
        with shared_store.asked() as questions, shared_store.memory.leases(ids) as batch:
            batch.commit({id: {"n": 2} for id in ids})
        if isinstance(shared_store, DatabaseStore) and shared_store.one_statement:
            statements = [text for text in questions if text.split()[0] not in ("BEGIN", "COMMIT", "START")]
            assert len(statements) == (3 if shared_store.name == "mariadb" else 2), statements
        elif not isinstance(shared_store, DatabaseStore):
            assert len(questions) == 2 * shared_store.nodes

    def test_large_states_are_cut_into_several(self, shared_store: Store) -> None:
        text = "x" * 600_000
        with shared_store.memory.leases(IDS) as batch, shared_store.asked() as questions:
            batch.commit({id: {"text": text} for id in IDS})
        assert len(questions) >= 5
        assert shared_store.memory.read(IDS[4]) == {"text": text}


@pytest.mark.parametrize("shared_store", [*databases(forms=("",)), *redis_servers()[:1]], indirect=True)
class TestProcesses:
    SECONDS = 1

    def test_overlapping_batches_lose_no_update_and_do_not_deadlock(self, shared_store: Store) -> None:
        """A deadlock, as any failure of the store, would be an error of the process that met it."""
        actors = [Actor(shared_store.alias) for _ in range(4)]
        try:
            for actor in actors:
                actor.tell("run", "tests.contract.batching.count", shared_store.alias, self.SECONDS)
            figures = [actor.answer() for actor in actors]
        finally:
            for actor in actors:
                actor.__exit__()
        counted = [(shared_store.memory.read(id) or {"n": 0})["n"] for id in IDS_OF_PROCESSES]
        assert sum(counted) == sum(figure["committed"] for figure in figures) > 0
        assert sum(figure["denied"] for figure in figures) > 0
        assert list(shared_store.memory.held_locks()) == []
