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
from django.core.management.commands import flush
from django.db import connections

from machine_memory import BaseMachineMemory
from machine_memory.backends.database.fences import keep_fences_of_removed
from machine_memory.core.keeper import keeper
from machine_memory.handler import configuration_of, memories
from tests import servers
from tests.admin import browser
from tests.clusters import galera, replicas
from tests.contract.stores import DATABASES, ORM, Store, named

T = TypeVar("T")

TESTED = [name for name in DATABASES if name not in servers.missing]
OTHERS = {"galera": galera.missing, "postgresql replicas": replicas.missing, "chromium": browser.missing}
SERVERS = [*DATABASES, "mysql", *servers.REDIS, *servers.STARTED, *OTHERS]
servers.look_for_programs()
servers.missing.update({name: why for name, why in OTHERS.items() if why})


def aliases(name: str) -> list[str]:
    return [name, f"{name}-proxied"] if name in servers.VARIABLES else [DATABASES[name]]


def needs(name: str) -> pytest.MarkDecorator:
    """Skip what cannot do without this server, and say why."""
    return pytest.mark.skipif(name in servers.missing, reason=f"{name}: {servers.missing.get(name)}")


def databases(*names: str, forms: tuple[str, ...] = ("", ORM)) -> list[Any]:
    """Return a parameter per database and form; what is not there is skipped and says why."""
    return [
        pytest.param(
            name + form,
            marks=[pytest.mark.django_db(transaction=True, databases=aliases(name)), needs(name)],
        )
        for name in names or DATABASES
        for form in forms
    ]


def redis_servers(*names: str) -> list[Any]:
    """Return a parameter per Redis server, and for their cluster, as ``databases``."""
    return [
        pytest.param(name, marks=needs(name))
        for name in names or servers.REDIS
        if name not in servers.RARE & set(servers.missing)
    ]


def pytest_configure() -> None:
    required = filter(None, os.environ.get("MACHINE_MEMORY_REQUIRE", "").split(","))
    if absent := [
        f"{name} ({servers.missing.get(name, 'unknown')})"
        for name in required
        if name not in SERVERS or name in servers.missing
    ]:
        raise pytest.UsageError(f"MACHINE_MEMORY_REQUIRE: not there: {', '.join(absent)}")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Have a file run by one process; all that start clusters, too, so that those are started once."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return "clusters" if nodeid.startswith("tests/clusters/") else str(super()._split_scope(nodeid))

    return Scheduling(config, log)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    terminalreporter.section("what there was to test on")
    for name in SERVERS:
        terminalreporter.line(
            f"{name:25}{f'NOT TESTED: {servers.missing[name]}' if name in servers.missing else 'tested'}"
        )


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """Let whatever empties the databases put back what migrating them wrote; to work that out anew takes far longer."""
    from django.contrib.auth.models import Permission
    from django.contrib.contenttypes.models import ContentType

    kinds: tuple[Any, ...] = (ContentType, Permission)
    with django_db_blocker.unblock():
        # Of tests that need another database alone, this one is not made.
        is_made = ContentType._meta.db_table in connections["default"].introspection.table_names()
        written = {kind: list(kind._default_manager.all()) if is_made else [] for kind in kinds}
        connections.close_all()

    def put_back(verbosity: int, interactive: bool, db: str) -> None:
        for kind in kinds if db == "default" else ():
            kind._default_manager.using(db).bulk_create(written[kind])
        keep_fences_of_removed(db)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flush, "emit_post_migrate_signal", put_back)
        yield
    connections.close_all()  # PostgreSQL deletes no database that a session is left in, as that of a system check is.


def _store(request: pytest.FixtureRequest) -> Iterator[Store]:
    if request.param.removesuffix(ORM) in (*DATABASES, "mysql"):
        request.getfixturevalue("transactional_db")
    store = named(request.param)
    yield store
    store.close()


mysql = [] if "mysql" in servers.missing else databases("mysql", forms=("",))
"""MySQL has the form of the ORM alone, and the contract alone is run there."""
store = pytest.fixture(params=["simple", *databases(), *mysql, *redis_servers()], name="store")(_store)
"""A store of any kind."""
shared_store = pytest.fixture(params=[*databases(), *mysql, *redis_servers()], name="shared_store")(_store)
"""A store that processes can share."""
server = pytest.fixture(params=[*databases("postgresql", "mariadb"), *redis_servers()], name="server")(_store)
"""A store that is reached over a network."""
database = pytest.fixture(params=databases(), name="database")(_store)
redis_store = pytest.fixture(params=redis_servers(), name="redis_store")(_store)
one_redis = pytest.fixture(params=redis_servers(*servers.CACHES), name="one_redis")(_store)
"""A Redis server that stands alone."""


@pytest.fixture(autouse=True)
def _nothing_to_keep() -> Iterator[None]:
    """Leave nothing to the keeper that the next test would count, or whose connection would stay."""
    yield
    thread = keeper._thread
    keeper.begin_anew()
    if thread is not None:
        thread.join(30)  # Amid a step it would go on to say, of the next test's leases, when it wakes.


@pytest.fixture(autouse=True, scope="session")
def _as_configured() -> Iterator[None]:
    """Test the memories that the settings name, which are no others' than the tests'."""
    with memories.built_by(lambda alias: configuration_of(alias).build()):
        yield


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
