"""Fixtures that several test modules share, and the report of the databases that were tested."""

import os
from contextvars import Context
from typing import Any

import pytest
from django.db import connections

from machine_memory import SimpleMachineMemory, memories
from machine_memory.backends.base import BaseMachineMemory
from machine_memory.models import MachineRecord
from machine_memory.sql import StoreTime
from tests import servers

DATABASES = {"sqlite": "default", "postgresql": "postgresql", "mariadb": "mariadb"}
"""The aliases that the databases have in the settings of the tests."""


def databases(*names: str) -> list[Any]:
    """Return a parameter per database; one that is not there is skipped and says why."""
    return [
        pytest.param(
            name,
            marks=[
                pytest.mark.django_db(transaction=True, databases=[DATABASES[name]]),
                pytest.mark.skipif(name in servers.missing, reason=f"{name}: {servers.missing.get(name)}"),
            ],
        )
        for name in names or DATABASES
    ]


def pytest_configure() -> None:
    required = filter(None, os.environ.get("MACHINE_MEMORY_REQUIRE", "").split(","))
    if absent := [f"{name} ({servers.missing.get(name, 'unknown')})" for name in required if name not in tested()]:
        raise pytest.UsageError(f"MACHINE_MEMORY_REQUIRE: not there: {', '.join(absent)}")


def tested() -> list[str]:
    return ["sqlite", *(name for name in servers.VARIABLES if name not in servers.missing)]


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
        self.name = name
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
        backend = type(memories[self.alias])
        return backend(using=self.alias, **options)  # type: ignore[call-arg]

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

    @property
    def rows(self) -> Any:
        return MachineRecord.objects.using(self.alias)


@pytest.fixture(params=["simple", *databases()])
def store(request: pytest.FixtureRequest) -> Store:
    if request.param in DATABASES:
        request.getfixturevalue("transactional_db")
    return Store(request.param)


@pytest.fixture(params=databases())
def database(request: pytest.FixtureRequest) -> Store:
    request.getfixturevalue("transactional_db")
    return Store(request.param)


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


def close_connections() -> None:
    for connection in connections.all(initialized_only=True):
        connection.close()
