"""What stands in the way of those who claim: cancellations, snapshots that are old, rows in use, and other clocks."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest
from django.db import connections, transaction
from django.test import override_settings

from machine_memory import BaseMachineMemory, Metadata
from machine_memory.core.records import Due, Grant
from machine_memory.core.telemetry import Operation
from tests.conftest import Worker, asynchronous, databases, in_thread, redis_servers
from tests.contract.stores import ServerStore, Store
from tests.contract.test_timers import LATER, NOW, asleep, claimed
from tests.core.test_ways_out import TIMES, cancelled, cancelled_while_busy, nothing_is_held
from tests.database.store import DatabaseStore, set_up
from tests.database.test_database import execute
from tests.proxy import Proxy

stores = pytest.mark.parametrize("store", ["simple", *databases(), *redis_servers()[:1]], indirect=True)
one_server_each = pytest.mark.parametrize(
    "server", [*databases("postgresql", "mariadb", forms=("",)), *redis_servers()[:1]], indirect=True
)
servers = pytest.mark.parametrize("database", databases("postgresql", "mariadb"), indirect=True)


async def block_of_what_is_due(memory: BaseMachineMemory) -> None:
    """Hold what is due until whatever comes."""
    async with memory.aclaim(ttl=600):
        await asyncio.sleep(20)


async def have_due(memory: BaseMachineMemory) -> None:
    for id in "abc":
        await memory.awrite(id, {"id": id}, wake_at=NOW)


@pytest.fixture
def behind_proxy(server: ServerStore) -> Iterator[tuple[BaseMachineMemory, Proxy]]:
    """A memory whose store may answer late."""
    with server.through_proxy() as found:
        yield found


class TestCancellation:
    @stores
    @asynchronous
    async def test_while_it_waits_for_its_turn(self, store: Store) -> None:
        for times in TIMES:
            await have_due(store.memory)
            await cancelled_while_busy(asyncio.create_task(block_of_what_is_due(store.memory)), times)
            await nothing_is_held(store)

    @stores
    @asynchronous
    async def test_while_it_leaves_its_block(self, store: Store) -> None:
        async def use() -> None:
            async with store.memory.aclaim(ttl=600, keep_alive=True) as batch:
                assert len(batch) == 3
                entered.set()
                await may_leave.wait()

        for times in TIMES:
            await have_due(store.memory)
            entered, may_leave = asyncio.Event(), asyncio.Event()
            task = asyncio.create_task(use())
            await entered.wait()
            await cancelled_while_busy(task, times, may_leave.set)
            await nothing_is_held(store)

    @stores
    @asynchronous
    async def test_at_any_instant(self, store: Store) -> None:
        loop = asyncio.get_running_loop()

        async def use() -> None:
            async with store.memory.aclaim(ttl=600) as batch:
                await batch.acommit({"a": {}})

        await have_due(store.memory)
        started = loop.time()
        await use()
        span = loop.time() - started
        for number in range(20):
            await have_due(store.memory)
            task = asyncio.create_task(use())
            await asyncio.sleep(1.2 * span * number / 20)
            await cancelled(task)
            await nothing_is_held(store)

    @one_server_each
    @asynchronous
    async def test_while_an_answer_is_on_its_way(
        self, server: ServerStore, behind_proxy: tuple[BaseMachineMemory, Proxy]
    ) -> None:
        memory, proxy = behind_proxy
        await memory.aread("warm up")
        for times, answers in product(TIMES, range(4)):
            proxy.delay = 0
            await have_due(memory)
            proxy.delay = 0.02
            task = asyncio.create_task(block_of_what_is_due(memory))
            await asyncio.sleep((answers + 0.5) * proxy.delay)
            await cancelled(task, times=times)
            await nothing_is_held(server)


@contextmanager
def isolated(database: DatabaseStore) -> Iterator[None]:
    """Have transactions of this thread keep to what they saw first, as that of a TestCase does."""
    kept = connections[database.alias].settings_dict["OPTIONS"]
    if database.name == "postgresql":
        from psycopg import IsolationLevel

        options: dict[str, Any] = {"isolation_level": IsolationLevel.REPEATABLE_READ}
    elif database.name == "mariadb":
        options = {"isolation_level": "repeatable read"}
    else:
        options = {"transaction_mode": "DEFERRED", "timeout": 0}
    with set_up(database.alias, OPTIONS={**kept, **options}):
        yield


@contextmanager
def snapshot(database: DatabaseStore) -> Iterator[None]:
    with isolated(database):
        block = transaction.atomic(using=database.alias)
        block._from_testcase = True  # type: ignore[attr-defined]  # Elsewhere nobody may claim.
        with block:
            assert list(database.rows.values_list("pk", flat=True))
            yield
            transaction.set_rollback(True, using=database.alias)


class TestIsolation:
    def test_nothing_stale_is_granted_by_an_old_snapshot(self, database: DatabaseStore) -> None:
        begin = datetime.now(UTC)
        for number, id in enumerate(("taken", "advanced", "put off", "same")):
            asleep(database.memory, id, wake_at=begin - timedelta(minutes=9 - number))

        memory = database.new_memory()
        block = memory.claim(1, ttl=600)

        def others() -> None:
            assert [lease.id for lease in block.__enter__()] == ["taken"]
            memory.write("advanced", {"n": 2})
            memory.write("put off", {"n": 2}, wake_at=LATER)

        with snapshot(database):
            in_thread(others).result()
            with database.memory.claim(ttl=600) as batch:
                granted = {lease.id: (lease.data, lease.version, lease.attempts) for lease in batch}
        # PostgreSQL and SQLite refuse such a transaction what has changed since; MariaDB sees it as it is.
        assert granted in ({}, {"advanced": ({"n": 2}, 2, 1), "same": ({"id": "same"}, 1, 1)})
        assert [info.id for info in database.memory.held_locks()] == ["taken"]
        block.__exit__()

    @servers
    @pytest.mark.parametrize("wakes", [NOW, LATER], ids=["due", "asleep"])
    def test_a_row_in_use_is_passed_over(self, database: DatabaseStore, wakes: timedelta) -> None:
        asleep(database.memory, "a", "c", "d")
        asleep(database.memory, "b", wake_at=wakes)
        with transaction.atomic(using=database.alias):
            assert list(database.rows.select_for_update().filter(pk="b"))

            def claim() -> list[str]:
                with isolated(database):
                    return claimed(database.new_memory())

            assert sorted(in_thread(claim).result()) == ["a", "c", "d"]

    @servers
    def test_each_has_its_own(self, database: DatabaseStore) -> None:
        ids = [f"m{number:02}" for number in range(60)]
        asleep(database.memory, *ids)

        def drain() -> list[str]:
            done: list[str] = []
            with isolated(database):
                memory = database.new_memory()
                while database.rows.due().exists():
                    with memory.claim(5, ttl=600) as batch:
                        done += batch.commit({lease.id: {} for lease in batch})
            return done

        workers = [in_thread(drain) for _ in range(3)]
        assert sorted(id for worker in workers for id in worker.result()) == ids


@pytest.mark.parametrize("use_tz", [True, False], ids=["USE_TZ", "no USE_TZ"])
def test_timers_are_those_of_the_store_whatever_the_time_zone(
    database: DatabaseStore, use_tz: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    dues: list[Due | None] = []
    tell = Operation.claimed

    def told(step: Operation, grants: list[Grant], **about: Any) -> None:
        dues.extend(grant.due for grant in grants)
        tell(step, grants, **about)

    monkeypatch.setattr(Operation, "claimed", told)
    connections[database.alias].close()
    with override_settings(USE_TZ=use_tz, TIME_ZONE="Asia/Kolkata"):
        if database.name == "mariadb":
            execute(database.alias, "SET time_zone = '-07:00'")
        memory, worker = database.memory, Worker(database.memory)
        moment = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=100)
        memory.write("a", {}, wake_at=moment)
        memory.write("b", {}, wake_at=LATER)
        memory.write("c", {}, wake_at=datetime.now(UTC) + timedelta(minutes=1))
        with memory.claim(ttl=60) as batch:
            assert [(lease.id, lease.wake_at) for lease in batch] == [("a", moment)]
            batch["a"].commit({}, wake_at=moment, metadata=Metadata(status="new"))
        with memory.claim(ttl=60, status="new") as batch:
            assert [(lease.id, lease.wake_at) for lease in batch] == [("a", moment)]
        assert claimed(memory) == []
        worker.lock("d", ttl=60)
        database.expire("d", ago=100)
        with memory.claim(ttl=60, expired=True) as batch:
            assert [(lease.id, lease.attempts) for lease in batch] == [("d", 1)]
    connections[database.alias].close()
    assert [due and due.lag for due in dues] == [pytest.approx(100, abs=5)] * 3
