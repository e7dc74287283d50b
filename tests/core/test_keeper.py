"""Leases that are kept alive: beside the caller's own transaction, many at once, and whatever ends it."""

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import connections, transaction
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider

from machine_memory import BaseMachineMemory, SimpleMachineMemory
from machine_memory.core import telemetry
from machine_memory.core.keeper import keeper
from machine_memory.core.lease import Lease
from machine_memory.core.lifecycle import take
from machine_memory.core.records import LeaseRef
from tests.actor import Actor
from tests.conftest import Worker, asynchronous, databases, in_thread, redis_servers
from tests.contract.stores import ServerStore, Store, named
from tests.core.interrupts import sockets
from tests.database.store import DatabaseStore

LARGE = bool(os.environ.get("MACHINE_MEMORY_LARGE"))
MANY = 1000 if LARGE else 40
TTL = 3.0 if LARGE else 0.6

stores = pytest.mark.parametrize("store", ["simple", *databases(forms=("",)), *redis_servers()[:1]], indirect=True)
each_database = pytest.mark.parametrize("database", databases(forms=("",)), indirect=True)
one_server_each = pytest.mark.parametrize(
    "server", [*databases("postgresql", "mariadb", forms=("",)), *redis_servers()[:1]], indirect=True
)


def in_real_time(store: Store) -> BaseMachineMemory:
    """Return the memory of a store; of one whose clock stands still, one whose clock does not."""
    return SimpleMachineMemory() if store.name == "simple" else store.memory


@contextlib.contextmanager
def rescued(database: DatabaseStore, *, after: float = 8) -> Iterator[None]:
    """End the other sessions of a database where the block takes longer: it hangs."""
    ends = {
        "postgresql": "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
        "mysql": "SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()",
    }

    def end() -> None:
        with connections[database.alias].cursor() as cursor:
            vendor = connections[database.alias].vendor
            if vendor in ends:
                cursor.execute(ends[vendor])
                for (session,) in cursor.fetchall() if vendor == "mysql" else ():
                    cursor.execute(f"KILL {session}")
        connections.close_all()

    watchdog = threading.Timer(after, end)
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()
        watchdog.join()


@each_database
class TestBesideATransaction:
    def test_neither_waits_for_the_other(self, database: DatabaseStore) -> None:
        def use() -> float:
            started = time.monotonic()
            beside = transaction.atomic(using=database.alias)
            with database.memory.lease("a", ttl=TTL, keep_alive=True) as lease, beside:
                lease.write({"n": 1})
                time.sleep(TTL / 2)
                lease.commit({"n": 2})
            return time.monotonic() - started

        with rescued(database):
            assert in_thread(use).result() < 3
        assert database.memory.read("a") == {"n": 2}
        assert database.lease_of("a") is None

    def test_what_met_a_row_in_use_comes_back_soon(self, database: DatabaseStore, other: Worker) -> None:
        def use() -> None:
            with database.memory.lease("a", ttl=TTL, keep_alive=True) as lease:
                with transaction.atomic(using=database.alias):
                    lease.write({"n": 1})
                    time.sleep(TTL / 2)
                for _ in range(3):
                    time.sleep(TTL / 2)
                    assert lease.remaining > 0
                    assert other.lock("a") is False
                lease.commit({"n": 2})

        with rescued(database):
            in_thread(use).result()
        assert database.memory.read("a") == {"n": 2}

    @pytest.fixture
    def memory(self, database: DatabaseStore) -> BaseMachineMemory:
        return database.memory


def keep_many(memory: BaseMachineMemory, ids: list[str], all_are_here: threading.Barrier, done: threading.Event) -> int:
    """Keep leases alive in a thread until all is done, and return how many can still be used."""
    with contextlib.ExitStack() as stack:
        leases = [stack.enter_context(memory.lease(id, ttl=TTL, keep_alive=True)) for id in ids]
        all_are_here.wait(60)
        done.wait(60)
        return sum(lease.write({"id": lease.id}) == 1 for lease in leases)


def keep_many_in_tasks(
    memory: BaseMachineMemory, ids: list[str], all_are_here: threading.Barrier, done: threading.Event
) -> int:
    async def keep(id: str) -> int:
        async with memory.alease(id, ttl=TTL, keep_alive=True) as lease:
            arrived.append(id)
            while not done.is_set():
                await asyncio.sleep(0.02)
            return await lease.awrite({"id": id})

    async def keep_all() -> list[int]:
        tasks = [asyncio.create_task(keep(id)) for id in ids]
        while len(arrived) < len(ids):
            await asyncio.sleep(0.01)
        await asyncio.to_thread(all_are_here.wait, 60)
        return await asyncio.gather(*tasks)

    arrived: list[str] = []
    return async_to_sync(keep_all)().count(1)


def on_a_small_pool(name: str) -> list[int]:
    """Keep more leases alive than there are connections, in a process of its own, and return what they could write."""
    store = named(name)
    connection: Any = connections[store.alias]
    connection.settings_dict["OPTIONS"]["pool"] = {"min_size": 1, "max_size": 4, "timeout": 1}
    try:
        with contextlib.ExitStack() as stack:
            leases = [
                stack.enter_context(store.memory.lease(f"machine {number}", ttl=TTL, keep_alive=True))
                for number in range(40)
            ]
            time.sleep(2 * TTL)
            return [lease.commit({}) for lease in leases]
    finally:
        connection.close()
        connection.close_pool()


class TestMany:
    @stores
    def test_one_thread_and_one_connection_keep_all_alive(self, store: Store) -> None:
        memory, done, all_are_here = in_real_time(store), threading.Event(), threading.Barrier(4)
        memory.read("warm up")
        ids = [f"machine {number}" for number in range(MANY)]
        shares = [ids[0::4], ids[1::4], ids[2::4] + ids[3::4]]
        ways: list[Callable[..., int]] = [keep_many, keep_many, keep_many_in_tasks]
        threads, before = set(threading.enumerate()), sockets()
        holders = [
            in_thread(lambda way=way, share=share: way(memory, share, all_are_here, done))  # type: ignore[misc]
            for way, share in zip(ways, shares, strict=True)
        ]
        all_are_here.wait(60)
        time.sleep(2 * TTL)
        live = {info.id for info in memory.held_locks()}
        keepers = [
            thread.name for thread in set(threading.enumerate()) - threads if thread.name.startswith("machine-memory")
        ]
        opened = sockets() - before
        done.set()
        assert [holder.result() for holder in holders] == [len(share) for share in shares]
        assert live == set(ids)
        assert len(keepers) <= 1, keepers
        # Each holder has one of its own, and the event loop two that it wakes itself by.
        own = 0 if store.name in ("simple", "sqlite") else 3
        assert opened <= own + 2 + 2 + 1
        store.wait_until(lambda: sockets() <= before + (store.name == "redis") * 4)
        assert list(memory.held_locks()) == []

    @one_server_each
    def test_one_question_serves_all(self, server: ServerStore) -> None:
        with server.through_proxy() as (memory, proxy), contextlib.ExitStack() as stack:
            for number in range(40):
                stack.enter_context(memory.lease(f"machine {number}", ttl=TTL, keep_alive=True))
            time.sleep(TTL)
            before = proxy.requests
            time.sleep(2 * TTL)
            # Six beats: were each lease to ask for itself, it would be 240.
            assert proxy.requests - before <= 60
            assert len(list(server.memory.held_locks())) == 40

    @pytest.mark.parametrize("database", databases("postgresql", forms=("",)), indirect=True)
    def test_a_small_pool_is_enough(self, database: DatabaseStore) -> None:
        with Actor(database.alias) as actor:
            assert actor("run", "tests.core.test_keeper.on_a_small_pool", database.name) == [1] * 40

    @pytest.mark.parametrize("database", databases("postgresql", "mariadb", forms=("",)), indirect=True)
    def test_its_connection_goes_when_there_is_nothing_left_to_keep(self, database: DatabaseStore) -> None:
        database.memory.read("warm up")
        before = sockets()
        with database.memory.lease("a", ttl=TTL / 3, keep_alive=True):
            database.wait_until(lambda: sockets() == before + 1)
        database.wait_until(lambda: sockets() == before)


@stores
class TestTheTermOfALease:
    def test_a_ttl_that_was_shortened_is_followed(self, store: Store) -> None:
        memory = in_real_time(store)
        with memory.lease("a", ttl=30, keep_alive=True) as lease:
            lease.renew(2)
            assert lease.remaining <= 2
            ends_at = time.monotonic() + lease.remaining
            store.wait_until(lambda: not lease.remaining or time.monotonic() + lease.remaining > ends_at + 0.1)
            assert 0 < lease.remaining <= 2
            assert Worker(memory).lock("a") is False
            assert lease.commit({"n": 1}) == 1

    def test_a_write_extends_a_lease_that_is_kept_alive_in_the_same_step(self, store: Store) -> None:
        store.memory.write("warm up", {})
        with store.memory.lease("a", ttl=30, keep_alive=True) as lease:
            before = store.lease_of("a")
            time.sleep(0.05)
            store.passed(0.05)
            left = lease.remaining
            with store.asked() as questions:
                lease.write({"n": 1})
            after = store.lease_of("a")
            assert before and after and after[1] >= before[1] + 0.05
            assert lease.remaining > left
        assert len(questions) == (store.name != "simple")

    def test_it_extends_no_other(self, store: Store) -> None:
        with store.memory.lease("a", ttl=30) as lease:
            before = store.lease_of("a")
            store.passed(0.05)
            lease.write({"n": 1})
            assert before and store.lease_of("a") == before


def one(memory: BaseMachineMemory) -> None:
    with memory.lease("a", keep_alive=True):
        pass


def many(memory: BaseMachineMemory) -> None:
    with memory.leases([*"abc"], keep_alive=True):
        pass


@async_to_sync
async def one_in_a_task(memory: BaseMachineMemory) -> None:
    async with memory.alease("a", keep_alive=True):
        pass


@async_to_sync
async def many_in_a_task(memory: BaseMachineMemory) -> None:
    async with memory.aleases([*"abc"], keep_alive=True):
        pass


def without_threads(name: str) -> list[str]:
    """Keep leases alive in a process where no thread can be started, and return what was seen, and what is left."""
    store, seen = named(name), []
    store.memory.read("warm up")
    async_to_sync(store.memory.aread)("warm up")

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        for hold in (one, many, one_in_a_task, many_in_a_task):
            try:
                hold(store.memory)
            except RuntimeError as error:
                seen.append(str(error))
        seen += [info.id for info in store.memory.held_locks()]
    return seen


class Faulty(SpanProcessor):
    """Raises at the start or at the end of each span."""

    def __init__(self, at: str) -> None:
        self._at = at

    def on_start(self, span: Span, parent_context: Any = None) -> None:
        if self._at == "start":
            raise ZeroDivisionError

    def on_end(self, span: ReadableSpan) -> None:
        if self._at == "end":
            raise ZeroDivisionError


@stores
class TestTheUnforeseen:
    def test_where_no_thread_can_be_started_the_lease_is_given_back(self, store: Store) -> None:
        with Actor(store.alias) as actor:
            assert actor("run", "tests.core.test_keeper.without_threads", store.name) == ["can't start new thread"] * 4

    @pytest.mark.parametrize("at", ["start", "end"])
    @pytest.mark.parametrize("keep_alive", [False, True])
    def test_a_span_processor_that_raises_leaves_no_lease(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, at: str, *, keep_alive: bool
    ) -> None:
        provider = TracerProvider()
        monkeypatch.setattr(telemetry, "tracer", provider.get_tracer("machine_memory"))
        provider.add_span_processor(Faulty(at))
        with contextlib.suppress(ZeroDivisionError), store.memory.lease("a", keep_alive=keep_alive) as lease:
            lease.write({"n": 1})
        with contextlib.suppress(ZeroDivisionError):
            store.memory.lock("b")
        with contextlib.suppress(ZeroDivisionError):
            store.memory.unlock("b")
        monkeypatch.undo()
        store.wait_until(lambda: not list(store.memory.held_locks()))
        assert store.memory.lock("a") is True

    def test_a_grant_that_overtakes_the_keeper_is_given_back_too(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        late = Lease(store.memory, "a", 300.0, "somebody")
        release_each = store.memory.store.release_each

        def overtaken(leases: Collection[LeaseRef]) -> set[str]:
            done = release_each(leases)
            if late._granted_at is None:
                assert take(late)
                keeper.give_back(late)
            return done

        monkeypatch.setattr(store.memory.store, "release_each", overtaken)
        keeper.give_back(late, may_come=True)
        store.wait_until(lambda: late._granted_at is not None)
        store.wait_until(lambda: store.lease_of("a") is None)

    @asynchronous
    async def test_it_is_the_same_for_a_task(self, store: Store) -> None:
        provider = TracerProvider()
        provider.add_span_processor(Faulty("end"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(telemetry, "tracer", provider.get_tracer("machine_memory"))
            with contextlib.suppress(ZeroDivisionError):
                async with store.memory.alease("a") as lease:
                    await lease.awrite({"n": 1})
        await store.in_thread(store.wait_until, lambda: not list(store.memory.held_locks()))
        assert await store.memory.alock("a") is True
