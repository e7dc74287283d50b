"""Whatever ends the use of a machine, and wherever: its lease is given back, and the next call is as ever."""

import asyncio
import contextlib
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connections

from machine_memory import BaseMachineMemory, UnknownOutcome
from tests.actor import Actor
from tests.conftest import asynchronous, databases, redis_servers
from tests.contract.stores import ServerStore, Store
from tests.core.interrupts import Halt
from tests.database.store import DatabaseStore
from tests.database.test_database import end_session
from tests.proxy import Proxy

TIMES = (1, 2, 30)
"""How often a task is cancelled: as by a timeout, by somebody impatient, and as anyio does until it ends."""
WAYS = 2000 if os.environ.get("MACHINE_MEMORY_LARGE") else 60
READS = 20_000 if os.environ.get("MACHINE_MEMORY_LARGE") else 60

stores = pytest.mark.parametrize("store", ["simple", *databases(forms=("",)), *redis_servers()[:1]], indirect=True)
one_server_each = pytest.mark.parametrize(
    "server", [*databases("postgresql", "mariadb", forms=("",)), *redis_servers()[:1]], indirect=True
)


@pytest.mark.timeout(1200)
class TestASignalHandlerThatRaises:
    @stores
    def test_no_lease_stays_and_the_next_call_is_as_ever(self, store: Store) -> None:
        with Actor(store.alias) as actor:
            figures = actor("run", "tests.core.interrupts.cycles", store.name, WAYS)
        assert (figures["failed"], figures["wrong"]) == ([], [])
        assert figures["interrupted"] > WAYS / 4
        # Where it hits the giving back itself, before its first line, nothing can be done.
        giving_back = figures["left"].pop("leaving", 0)
        assert (figures["left"], giving_back <= 1) == ({}, True), giving_back
        assert figures["slowest"] < 1
        # One thread may linger for whoever comes next, and one connection stay in a pool.
        assert (figures["threads"] <= 1, figures["sockets"] <= 1) == (True, True), figures

    @one_server_each
    def test_nobody_gets_the_answer_to_another_question(self, server: ServerStore) -> None:
        with Actor(server.alias) as actor:
            figures = actor("run", "tests.core.interrupts.reads", server.name, READS)
        assert (figures["failed"], figures["wrong"]) == ([], [])
        assert figures["interrupted"] > READS / 4
        assert figures["slowest"] < 1


@contextlib.contextmanager
def halted(server: ServerStore) -> Iterator[None]:
    """Let the driver of a server raise once, when a question is sent and its answer is not received yet."""
    halting = [Halt()]
    with pytest.MonkeyPatch.context() as patch:
        if server.name == "postgresql":
            import psycopg

            wait = psycopg.Connection.wait

            def sent(connection: Any, generator: Any, *args: Any, **options: Any) -> Any:
                if halting:
                    next(generator)
                    raise halting.pop()
                return wait(connection, generator, *args, **options)

            patch.setattr(psycopg.Connection, "wait", sent)
        elif server.name == "mariadb":
            from MySQLdb.connections import Connection

            query = Connection.query

            def queried(connection: Any, text: Any) -> Any:
                if halting:
                    connection.send_query(text)
                    raise halting.pop()
                return query(connection, text)

            patch.setattr(Connection, "query", queried)
        else:
            from redis.connection import AbstractConnection

            read_response = AbstractConnection.read_response

            def received(connection: Any, *args: Any, **options: Any) -> Any:
                if halting:
                    raise halting.pop()
                return read_response(connection, *args, **options)

            patch.setattr(AbstractConnection, "read_response", received)
        yield
    assert not halting


@one_server_each
class TestBetweenAQuestionAndItsAnswer:
    @pytest.fixture(autouse=True)
    def nothing_is_reused(self, server: ServerStore) -> Iterator[None]:
        yield
        connections.close_all()
        server.hang_up(server.memory)

    def test_a_read_that_is_left_there_leaves_its_answer_to_nobody(self, server: ServerStore) -> None:
        for id in "ab":
            server.memory.write(id, {"of": id})
        with halted(server), pytest.raises(Halt):
            server.memory.read("a")
        started = time.monotonic()
        assert [server.memory.read(id) for id in "ba"] == [{"of": "b"}, {"of": "a"}]
        assert time.monotonic() - started < 1

    def test_a_lease_that_is_left_there_is_given_back(self, server: ServerStore) -> None:
        server.memory.write("a", {"n": 1})
        with halted(server), pytest.raises(Halt), server.memory.lease("a"):
            pass
        server.wait_until(lambda: server.lease_of("a") is None)
        with server.memory.lease("a") as lease:
            assert lease.commit({"n": 2}) == 2

    def test_so_is_one_whose_block_ends_there(self, server: ServerStore) -> None:
        with pytest.raises(Halt), server.memory.lease("a") as lease:
            lease.write({"n": 1})
            with halted(server):
                lease.commit({"n": 2})
        server.wait_until(lambda: server.lease_of("a") is None)
        assert server.memory.read("a") in ({"n": 1}, {"n": 2})


class Busy:
    """Other work that sits in the one thread where Django's synchronous code runs, until it is told to end."""

    def __init__(self) -> None:
        self._done = threading.Event()
        self._work: asyncio.Future[Any] | None = None

    async def __aenter__(self) -> "Busy":
        begun = threading.Event()

        def work() -> None:
            begun.set()
            self._done.wait(20)

        self._work = asyncio.ensure_future(sync_to_async(work)())
        while not begun.is_set():
            await asyncio.sleep(0.001)
        return self

    async def __aexit__(self, *error: object) -> None:
        self.end()
        if self._work:
            await self._work

    def end(self) -> None:
        self._done.set()


async def block(memory: BaseMachineMemory, id: str) -> None:
    """Hold a machine until whatever comes."""
    async with memory.alease(id):
        await asyncio.sleep(20)


async def block_of_many(memory: BaseMachineMemory, id: str) -> None:
    async with memory.aleases([id, "another"]):
        await asyncio.sleep(20)


async def nothing_is_held(store: Store) -> None:
    """Wait for a moment until no lease is held."""
    await store.in_thread(store.wait_until, lambda: not list(store.memory.held_locks()))


async def cancelled(task: "asyncio.Task[Any]", *, times: int = 1) -> None:
    """Cancel a task as often as that, or until it is over."""
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0.002)
    await asyncio.wait([task], timeout=20)
    assert task.done(), "it goes on although it was cancelled"
    if not task.cancelled() and (error := task.exception()):
        raise error


async def cancelled_while_busy(task: "asyncio.Task[Any]", times: int, begin: Callable[[], None] = lambda: None) -> None:
    """Cancel a task that cannot go on at once, as its turn comes later."""
    async with Busy() as busy:
        begin()
        await asyncio.sleep(0.01)
        threading.Timer(0.03, busy.end).start()
        await cancelled(task, times=times)


@stores
class TestCancellation:
    @asynchronous
    async def test_of_two_hundred_at_any_instant_none_leaves_a_lease(self, store: Store) -> None:
        async def use(id: str) -> None:
            async with store.memory.alease(id) as lease:
                await lease.awrite({"n": 1})
                await asyncio.sleep(0)
                await lease.acommit({"n": 2})

        async def lock(id: str) -> None:
            try:
                await store.memory.alock(id)
                await asyncio.sleep(0)
            finally:
                await store.memory.aunlock(id)

        await use("warm up")
        started = time.monotonic()
        await use("warm up")
        span = 2 * (time.monotonic() - started)
        for turn in range(10):
            tasks = []
            async with Busy() as busy:
                for number in range(10):
                    tasks.append(asyncio.create_task(use(f"used {turn} {number}")))
                    tasks.append(asyncio.create_task(lock(f"locked {turn} {number}")))
                await asyncio.sleep(0)
                for task in tasks[:4]:
                    task.cancel()
                busy.end()
                for number, task in enumerate(tasks[4:]):
                    await asyncio.sleep(span * ((turn + number) % 7) / 7)
                    task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} <= {type(None), asyncio.CancelledError}
        await nothing_is_held(store)

    @asynchronous
    async def test_while_it_waits_for_its_turn(self, store: Store) -> None:
        for times, hold in itertools.product(TIMES, (block, block_of_many)):
            await cancelled_while_busy(asyncio.create_task(hold(store.memory, "a")), times)
            await nothing_is_held(store)
        assert await store.memory.alock("a") is True

    @asynchronous
    async def test_within_its_block(self, store: Store) -> None:
        async def use(keep_alive: bool) -> None:
            async with store.memory.alease("a", keep_alive=keep_alive) as lease:
                await lease.awrite({"n": 1})
                entered.set()
                await asyncio.sleep(20)

        for times in TIMES:
            entered = asyncio.Event()
            task = asyncio.create_task(use(times == 2))
            await entered.wait()
            await cancelled_while_busy(task, times)
            await nothing_is_held(store)
        assert await store.memory.aread("a") == {"n": 1}

    @asynchronous
    async def test_while_it_leaves_its_block(self, store: Store) -> None:
        async def use(keep_alive: bool) -> None:
            async with store.memory.alease("a", keep_alive=keep_alive) as lease:
                await lease.awrite({"n": 1})
                entered.set()
                await may_leave.wait()

        for times in TIMES:
            entered, may_leave = asyncio.Event(), asyncio.Event()
            task = asyncio.create_task(use(times == 2))
            await entered.wait()
            await cancelled_while_busy(task, times, may_leave.set)
            await nothing_is_held(store)

    @asynchronous
    async def test_while_it_unlocks(self, store: Store) -> None:
        async def use() -> None:
            await store.memory.alock("a")
            locked.set()
            await may_unlock.wait()
            await store.memory.aunlock("a")

        for times in TIMES:
            locked, may_unlock = asyncio.Event(), asyncio.Event()
            task = asyncio.create_task(use())
            await locked.wait()
            await cancelled_while_busy(task, times, may_unlock.set)
            await nothing_is_held(store)

    @asynchronous
    async def test_by_a_timeout(self, store: Store) -> None:
        async def use() -> None:
            async with asyncio.timeout(0.02), store.memory.alease("a"):
                await asyncio.sleep(20)

        async with Busy() as busy:
            task = asyncio.create_task(use())
            threading.Timer(0.05, busy.end).start()
            with pytest.raises(TimeoutError):
                await task
        await nothing_is_held(store)


@pytest.fixture
def far(server: ServerStore) -> Iterator[tuple[BaseMachineMemory, Proxy]]:
    """A memory whose store may answer late."""
    with server.through_proxy() as (memory, proxy):
        yield memory, proxy


@pytest.fixture
def closing(far: object) -> Iterator[None]:
    """Close the connections of the thread that serves event loops of one's own."""
    yield
    asyncio.run(sync_to_async(connections.close_all)())


async def ended(use: Coroutine[Any, Any, Any], after: float) -> None:
    """Begin, and let the loop end soon after."""
    task = asyncio.create_task(use)
    await asyncio.sleep(after)
    assert not task.done()


@one_server_each
class TestAGrantThatNobodyCollects:
    @asynchronous
    async def test_of_a_task_that_was_cancelled(
        self, server: ServerStore, far: tuple[BaseMachineMemory, Proxy]
    ) -> None:
        memory, proxy = far
        await memory.aread("warm up")
        proxy.delay = 0.03
        for times, after in itertools.product(TIMES, (0.0, 0.015)):
            for coroutine in (memory.alock("a"), block(memory, "a"), block_of_many(memory, "a")):
                task: asyncio.Task[Any] = asyncio.create_task(coroutine)
                await asyncio.sleep(after)
                await cancelled(task, times=times)
                await nothing_is_held(server)
        assert await server.memory.alock("a") is True

    @pytest.mark.usefixtures("closing")
    def test_of_a_loop_that_has_ended(self, server: ServerStore, far: tuple[BaseMachineMemory, Proxy]) -> None:
        memory, proxy = far
        asyncio.run(sync_to_async(memory.read)("warm up"))
        # Whoever has locked by then, and has not unlocked, has forgotten it; a block never does.
        for after, coroutine in (
            *((after, memory.alock("a")) for after in (0.005, 0.02)),
            *((after, block(memory, "a")) for after in (0.005, 0.02, 0.06, 0.1)),
        ):
            proxy.delay = 0.05
            asyncio.run(ended(coroutine, after))
            proxy.delay = 0
            server.wait_until(lambda: server.lease_of("a") is None)
        assert server.memory.lock("a") is True


class TestADeadConnection:
    @pytest.fixture
    def proxy(self, server: ServerStore, caplog: pytest.LogCaptureFixture) -> Iterator[Proxy]:
        with server.through_proxy() as (self.memory, proxy):
            self.memory.read("warm up")
            with caplog.at_level(logging.WARNING, logger="machine_memory"):
                yield proxy

    def test_a_block_gives_its_lease_back_on_a_fresh_one(
        self, server: ServerStore, proxy: Proxy, caplog: pytest.LogCaptureFixture
    ) -> None:
        with self.memory.lease("a") as lease:
            lease.write({"n": 1})
            proxy.hang_up()
        assert server.lease_of("a") is None
        assert caplog.messages == []
        assert self.memory.read("a") == {"n": 1}

    def test_so_does_unlock(self, server: ServerStore, proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
        assert self.memory.lock("a") is True
        proxy.hang_up()
        assert self.memory.unlock("a") is True
        assert server.lease_of("a") is None
        assert caplog.messages == []

    def test_a_commit_on_it_leaves_no_lease(self, server: ServerStore, proxy: Proxy) -> None:
        # Redis alone is looked at before it is asked anything.
        with contextlib.suppress(UnknownOutcome), self.memory.lease("a") as lease:
            proxy.hang_up()
            lease.commit({"n": 1})
        assert server.lease_of("a") is None
        assert self.memory.lock("a") is True

    def test_a_cleanup_whose_reply_is_lost_has_an_unknown_outcome(self, server: ServerStore, proxy: Proxy) -> None:
        server.memory.write("a", {"n": 1})
        proxy.after = b"EVALSHA" if server.name.startswith("redis") else b"DELETE"
        with pytest.raises(UnknownOutcome, match="The reply to the cleanup of 'a' was lost: it may have been applied."):
            self.memory.cleanup("a")
        proxy.after = None
        assert server.memory.read("a") in (None, {"n": 1})

    @asynchronous
    async def test_it_is_the_same_for_a_task(self, server: ServerStore, proxy: Proxy) -> None:
        async with self.memory.alease("a") as lease:
            await lease.awrite({"n": 1})
            proxy.hang_up()
        assert await server.in_thread(server.lease_of, "a") is None

    @pytest.mark.parametrize("database", databases("postgresql", "mariadb"), indirect=True)
    def test_it_is_the_same_where_the_server_ended_the_session(self, database: DatabaseStore) -> None:
        with database.memory.lease("a") as lease:
            lease.write({"n": 1})
            end_session(database.alias)
        assert database.lease_of("a") is None
        assert database.memory.lock("a") is True
        end_session(database.alias)
        assert database.memory.unlock("a") is True
        assert list(database.memory.held_locks()) == []


@stores
def test_a_forked_child_is_no_holder_and_ends_nothing(store: Store) -> None:
    with Actor(store.alias) as actor:
        for how in ("by_system_call", "by_multiprocessing"):
            report = actor("run", f"tests.core.forks.{how}", store.name, how)
            parent = report.pop("parent")
            assert report == {
                "lease.write": "LockLost",
                "lease.commit": "LockLost",
                "lease.renew": "LockLost",
                "write": "LockLost",
                "cleanup": "LockLost",
                "lock": False,
                "unlock": False,
                "lease.release": False,
                "left": True,
            }
            assert parent == {"same lease": True, "commit": 2, "state": {"by": "parent", "done": True}}
        assert actor("run", "tests.core.forks.verbs", store.name, "verbs") == {
            "write": "LockLost",
            "cleanup": "LockLost",
            "unlock": False,
            "parent": {
                "locked": True,
                "same lease": True,
                "write": 2,
                "unlock": True,
                "state": {"by": "parent", "again": True},
            },
        }


def test_a_forked_child_is_not_held_up_by_a_step_of_another_thread() -> None:
    with Actor("default") as actor:
        assert actor("run", "tests.core.forks.amid_a_step", "simple", "a") == {"lock": True}


@pytest.mark.parametrize("store", databases("sqlite", forms=("",)), indirect=True)
def test_a_forked_child_is_not_held_up_by_what_keeps_its_parents_lease_alive(store: Store) -> None:
    with Actor(store.alias) as actor:
        report = actor("run", "tests.core.forks.amid_a_beat", store.name, "amid a beat")
    assert report == {"open files of the database": 0, "lock": True, "unlock": True}
