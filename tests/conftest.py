"""Fixtures that several test modules share, and the report of the databases that were tested."""

import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextvars import Context
from functools import wraps
from typing import Any, Generic, TypeVar

import pytest
from asgiref.sync import async_to_sync
from django.db import connections

from machine_memory import BaseMachineMemory
from tests import browser, servers
from tests.stores import DATABASES, ORM, Store, named

T = TypeVar("T")

TESTED = [name for name in DATABASES if name not in servers.missing]
SERVERS = [*DATABASES, *servers.CACHES, "chromium"]
if browser.missing:
    servers.missing["chromium"] = browser.missing


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


def redis_servers() -> list[Any]:
    """Return a parameter per Redis server, as ``databases``."""
    return [
        pytest.param(name, marks=pytest.mark.skipif(name in servers.missing, reason=str(servers.missing.get(name))))
        for name in servers.CACHES
    ]


def pytest_configure() -> None:
    required = filter(None, os.environ.get("MACHINE_MEMORY_REQUIRE", "").split(","))
    if absent := [
        f"{name} ({servers.missing.get(name, 'unknown')})"
        for name in required
        if name not in SERVERS or name in servers.missing
    ]:
        raise pytest.UsageError(f"MACHINE_MEMORY_REQUIRE: not there: {', '.join(absent)}")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    terminalreporter.section("what there was to test on")
    for name in SERVERS:
        terminalreporter.line(
            f"{name:25}{f'NOT TESTED: {servers.missing[name]}' if name in servers.missing else 'tested'}"
        )


def _store(request: pytest.FixtureRequest) -> Iterator[Store]:
    if request.param.removesuffix(ORM) in DATABASES:
        request.getfixturevalue("transactional_db")
    store = named(request.param)
    yield store
    store.close()


store = pytest.fixture(params=["simple", *databases(), *redis_servers()], name="store")(_store)
"""A store of any kind."""
shared_store = pytest.fixture(params=[*databases(), *redis_servers()], name="shared_store")(_store)
"""A store that processes can share."""
server = pytest.fixture(params=[*databases("postgresql", "mariadb"), *redis_servers()], name="server")(_store)
"""A store that is reached over a network."""
database = pytest.fixture(params=databases(), name="database")(_store)
redis_store = pytest.fixture(params=redis_servers(), name="redis_store")(_store)


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
