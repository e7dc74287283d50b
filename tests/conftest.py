"""Fixtures that several test modules share, and the report of the databases that were tested."""

import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import Context
from functools import wraps
from typing import Any, Generic, TypeVar

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import connections
from django.test.utils import CaptureQueriesContext

from machine_memory import BaseMachineMemory, DatabaseMachineMemory, SimpleMachineMemory
from machine_memory.clock import StoreTime
from machine_memory.models import MachineQuerySet, MachineRecord
from tests import servers

T = TypeVar("T")

DATABASES = {"sqlite": "default", "postgresql": "postgresql", "mariadb": "mariadb"}
"""The aliases that the databases have in the settings of the tests."""
ORM = " through the ORM"
"""Marks a store whose steps take the form of the ORM."""


TESTED = [name for name in DATABASES if name not in servers.missing]


def aliases(name: str) -> list[str]:
    return [DATABASES[name], f"{name}-proxied"] if name in servers.VARIABLES else [DATABASES[name]]


def databases(*names: str, forms: tuple[str, ...] = ("", ORM)) -> list[Any]:
    """Return a parameter per database and form; what is not there is skipped and says why."""
    return [
        pytest.param(
            name + form,
            marks=[
                pytest.mark.django_db(transaction=True, databases=aliases(name)),
                pytest.mark.skipif(name in servers.missing, reason=f"{name}: {servers.missing.get(name)}"),
            ],
        )
        for name in names or DATABASES
        for form in forms
    ]


def pytest_configure() -> None:
    required = filter(None, os.environ.get("MACHINE_MEMORY_REQUIRE", "").split(","))
    if absent := [f"{name} ({servers.missing.get(name, 'unknown')})" for name in required if name not in TESTED]:
        raise pytest.UsageError(f"MACHINE_MEMORY_REQUIRE: not there: {', '.join(absent)}")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    terminalreporter.section("databases")
    for name in DATABASES:
        terminalreporter.line(
            f"{name:12}{f'NOT TESTED: {servers.missing[name]}' if name in servers.missing else 'tested'}"
        )


class Clock:
    """The clock of an in-process memory, to be moved by tests."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Store:
    """A memory under test, and what only its operator could do to it."""

    def __init__(self, name: str) -> None:
        self.name = name.removesuffix(ORM)
        self.one_statement = not name.endswith(ORM)
        self.clock = Clock()
        self.memory = self.new_memory()

    @property
    def alias(self) -> str:
        return DATABASES[self.name]

    @property
    def is_database(self) -> bool:
        return self.name in DATABASES

    def new_memory(self, **options: Any) -> BaseMachineMemory:
        """Return a memory of the same kind; of a database, of the same table."""
        if not self.is_database:
            return SimpleMachineMemory(clock=self.clock, **options)
        return DatabaseMachineMemory(using=self.alias, one_statement=self.one_statement, **options)

    def expire(self, id: str, *, ago: float = 0.0) -> None:
        """Move the expiry of the lease of ``id`` into the past, or the clock to it."""
        if isinstance(self.memory, SimpleMachineMemory):
            lease = self.memory._machines[id].lease
            assert lease is not None
            self.clock.now = max(self.clock.now, lease.expires_at + ago)
        else:
            assert self.rows.filter(pk=id).update(lease_expires_at=StoreTime(-ago)) == 1

    def lease_of(self, id: str) -> tuple[str, float] | None:
        """Return token and expiry as they are stored."""
        if isinstance(self.memory, SimpleMachineMemory):
            machine = self.memory._machines.get(id)
            return (machine.lease.token, machine.lease.expires_at) if machine and machine.lease else None
        row = self.rows.filter(pk=id, lease_token__isnull=False).values_list("lease_token", "lease_expires_at").first()
        return row and (row[0], row[1].timestamp())

    def count(self) -> int:
        """Return how many machines there are, with or without state."""
        if isinstance(self.memory, SimpleMachineMemory):
            return len(self.memory._machines)
        return int(self.rows.count())

    @contextmanager
    def untouched(self, id: str | None = None) -> Iterator[None]:
        """Check that no query is made within, and that neither the machines nor the lease of ``id`` change."""
        before = self._everything(id)
        if self.is_database:
            with CaptureQueriesContext(connections[self.alias]) as queries:
                yield
            assert [query["sql"] for query in queries] == []
        else:
            yield
        assert self._everything(id) == before

    def _everything(self, id: str | None) -> Any:
        return self.count(), id and self.lease_of(id), id and self.memory.record(id)

    async def in_thread(self, call: Callable[..., T], *args: Any) -> T:
        """Do something to the store from a coroutine."""
        return await sync_to_async(call)(*args)

    def wait_until(self, done: Callable[[], Any]) -> None:
        """Let real time go by, for what happens in a background thread."""
        deadline = time.monotonic() + 10
        while not done():
            assert time.monotonic() < deadline, "it did not happen within 10 seconds"
            time.sleep(0.01)
            self.clock.now += 0.01

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Keep a lease that is shorter than a test alive for as long as the block lasts."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(MachineQuerySet, "held", lambda rows: rows.filter(lease_expires_at__isnull=False))
            yield

    @property
    def steps(self) -> Any:
        assert isinstance(self.memory, DatabaseMachineMemory)
        return self.memory._steps(connections[self.alias])

    @property
    def rows(self) -> Any:
        return MachineRecord.objects.using(self.alias)


@pytest.fixture(params=["simple", *databases()])
def store(request: pytest.FixtureRequest) -> Store:
    if request.param != "simple":
        request.getfixturevalue("transactional_db")
    return Store(request.param)


@pytest.fixture(params=databases())
def database(request: pytest.FixtureRequest) -> Iterator[Store]:
    request.getfixturevalue("transactional_db")
    store = Store(request.param)
    yield store
    if connections[store.alias].errors_occurred:
        connections[store.alias].close()


@pytest.fixture
def memory(store: Store) -> BaseMachineMemory:
    return store.memory


class Worker:
    """Another context that uses the same memory: it holds none of the leases of the test itself."""

    def __init__(self, memory: BaseMachineMemory) -> None:
        self._memory = memory
        self._context = Context()

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: self._context.run(getattr(self._memory, name), *args, **kwargs)


@pytest.fixture
def worker(memory: BaseMachineMemory) -> Any:
    return Worker(memory)


@pytest.fixture
def other(memory: BaseMachineMemory) -> Any:
    return Worker(memory)


def asynchronous(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a test on an event loop; what hops to a thread from there comes back to this one and its connections."""

    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        async_to_sync(test)(*args, **kwargs)

    return run


class in_thread(Generic[T]):  # noqa: N801
    """A call in a thread of its own; as a context manager, for as long as its block at least."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._outcome: Future[T] = Future()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def result(self) -> T:
        self._thread.join(30)
        return self._outcome.result(0)

    def __enter__(self) -> "in_thread[T]":
        return self

    def __exit__(self, *error: object) -> None:
        self.result()

    def _run(self) -> None:
        try:
            self._outcome.set_result(self._call())
        except BaseException as error:  # noqa: BLE001  # It is raised again where the result is wanted.
            self._outcome.set_exception(error)
        finally:
            connections.close_all()
