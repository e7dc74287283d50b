"""The memories under test, and what only the operators of their stores could do to them."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import pytest
import redis
from asgiref.sync import sync_to_async
from django.core.cache import caches
from django.db import connections
from django.test.utils import CaptureQueriesContext

from machine_memory import BaseMachineMemory, DatabaseMachineMemory, RedisMachineMemory, SimpleMachineMemory
from machine_memory.clock import StoreTime
from machine_memory.models import MachineQuerySet, MachineRecord
from tests import servers
from tests.proxy import COMMIT, STATEMENT, Proxy, proxied

T = TypeVar("T")

DATABASES = {"sqlite": "default", "postgresql": "postgresql", "mariadb": "mariadb"}
"""The aliases that the databases have in the settings of the tests."""
ORM = " through the ORM"
"""Marks a store whose steps take the form of the ORM."""


@contextmanager
def set_up(alias: str, **settings: Any) -> Iterator[None]:
    """Set up a database with these settings changed, on another connection."""
    kept = connections[alias]
    connections[alias] = type(kept)({**kept.settings_dict, **settings}, alias)
    try:
        yield
    finally:
        connections[alias].close()
        connections[alias] = kept


class Clock:
    """The clock of an in-process memory, to be moved by tests."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Store(ABC):
    """A store, and a memory that is kept there."""

    alias = ""
    """Of its memory in the settings of the tests."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.memory = self.new_memory()

    @abstractmethod
    def new_memory(self, **options: Any) -> BaseMachineMemory:
        """Return a memory of the same kind; of a server, of the same machines."""

    @abstractmethod
    def expire(self, id: str, *, ago: float = 0.0) -> None:
        """Move the expiry of the lease of ``id`` into the past, or the clock to it."""

    @abstractmethod
    def age(self, id: str, seconds: float) -> None:
        """Let ``id`` have been written so many seconds ago."""

    @abstractmethod
    def lease_of(self, id: str) -> tuple[str, float] | None:
        """Return token and expiry as they are stored."""

    @abstractmethod
    def count(self) -> int:
        """Return how many machines there are, with or without state."""

    def now(self) -> float:
        return time.time()

    def asked(self) -> AbstractContextManager[list[str]]:
        """Gather what the store is asked for within."""
        return nullcontext([])

    @contextmanager
    def untouched(self, id: str | None = None) -> Iterator[None]:
        """Check that nothing is asked for within, and that neither the machines nor the lease of ``id`` change."""
        before = self._everything(id)
        with self.asked() as questions:
            yield
        assert questions == []
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
            self.passed(0.01)

    def passed(self, seconds: float) -> None:  # noqa: B027  # Most clocks move by themselves.
        """Real time has gone by."""

    def frozen(self) -> AbstractContextManager[None]:
        """Keep a lease that is shorter than a test alive for as long as the block lasts, where that can be done."""
        return nullcontext()

    def close(self) -> None:  # noqa: B027  # Memory goes by itself.
        """Leave nothing behind."""


class ServerStore(Store):
    """A store that is reached over a network, or is a file."""

    question = b""
    """What is in every request that reads a state."""
    no_answer = ""
    """The driver's error where no server is."""

    @property
    @abstractmethod
    def decisive(self) -> bytes:
        """What is in every request that may change something."""

    @abstractmethod
    def through_proxy(self) -> AbstractContextManager[tuple[BaseMachineMemory, Proxy]]:
        """Reach the same machines through a proxy."""

    @abstractmethod
    def hang_up(self, memory: BaseMachineMemory) -> None:
        """Close the connections that a memory keeps."""


class SimpleStore(Store):
    alias = "simple"

    def __init__(self, name: str) -> None:
        self.clock = Clock()
        super().__init__(name)

    def new_memory(self, **options: Any) -> SimpleMachineMemory:
        return SimpleMachineMemory(clock=self.clock, **options)

    def expire(self, id: str, *, ago: float = 0.0) -> None:
        lease = self._machines[id].lease
        assert lease is not None
        self.clock.now = max(self.clock.now, lease.expires_at + ago)

    def age(self, id: str, seconds: float) -> None:
        self._machines[id].written_at = self.clock.now - seconds

    def lease_of(self, id: str) -> tuple[str, float] | None:
        machine = self._machines.get(id)
        return (machine.lease.token, machine.lease.expires_at) if machine and machine.lease else None

    def count(self) -> int:
        return len(self._machines)

    def now(self) -> float:
        return self.clock.now

    def passed(self, seconds: float) -> None:
        self.clock.now += seconds

    @property
    def _machines(self) -> Any:
        assert isinstance(self.memory, SimpleMachineMemory)
        return self.memory._machines


class DatabaseStore(ServerStore):
    question = b"SELECT"
    no_answer = "OperationalError"

    def __init__(self, name: str) -> None:
        self.one_statement = not name.endswith(ORM)
        name = name.removesuffix(ORM)
        self.alias = DATABASES[name]
        super().__init__(name)

    def new_memory(self, **options: Any) -> DatabaseMachineMemory:
        return DatabaseMachineMemory(using=self.alias, one_statement=self.one_statement, **options)

    def expire(self, id: str, *, ago: float = 0.0) -> None:
        assert self.rows.filter(pk=id).update(lease_expires_at=StoreTime(-ago)) == 1

    def age(self, id: str, seconds: float) -> None:
        assert self.rows.filter(pk=id).update(written_at=StoreTime(-seconds)) == 1

    def lease_of(self, id: str) -> tuple[str, float] | None:
        row = self.rows.filter(pk=id, lease_token__isnull=False).values_list("lease_token", "lease_expires_at").first()
        return row and (row[0], row[1].timestamp())

    def count(self) -> int:
        return int(self.rows.count())

    @contextmanager
    def asked(self) -> Iterator[list[str]]:
        questions: list[str] = []
        with CaptureQueriesContext(connections[self.alias]) as queries:
            yield questions
        questions.extend(query["sql"] for query in queries)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(MachineQuerySet, "held", lambda rows: rows.filter(lease_expires_at__isnull=False))
            yield

    def close(self) -> None:
        if connections[self.alias].errors_occurred:
            connections[self.alias].close()

    @property
    def decisive(self) -> bytes:
        return STATEMENT if self.one_statement else COMMIT[self.name]

    @contextmanager
    def through_proxy(self) -> Iterator[tuple[BaseMachineMemory, Proxy]]:
        with proxied(self.alias) as (alias, proxy):
            yield DatabaseMachineMemory(using=alias, one_statement=self.one_statement), proxy

    def hang_up(self, memory: BaseMachineMemory) -> None:
        memory._close()

    @property
    def steps(self) -> Any:
        assert isinstance(self.memory, DatabaseMachineMemory)
        return self.memory._steps(connections[self.alias])

    @property
    def rows(self) -> Any:
        return MachineRecord.objects.using(self.alias)


@contextmanager
def sent_by(memory: BaseMachineMemory) -> Iterator[list[str]]:
    """Gather what a memory sends to its Redis server within, one text for each time that it sends."""
    assert isinstance(memory, RedisMachineMemory)
    connection_class = memory._client.connection_pool.connection_class
    send = connection_class.send_packed_command
    sent: list[str] = []

    def listening(connection: Any, command: Any, *args: Any, **options: Any) -> Any:
        sent.append(str(command))
        return send(connection, command, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection_class, "send_packed_command", listening)
        yield sent


class RedisStore(ServerStore):
    question = b"HMGET"
    no_answer = "NotConnected"

    def __init__(self, name: str) -> None:
        self.alias = servers.CACHES[name]
        super().__init__(name)
        # The tests' own user may do everything.
        self.client: Any = servers.redis_client(name)
        self.close()

    def new_memory(self, **options: Any) -> RedisMachineMemory:
        return RedisMachineMemory(cache=self.alias, **options)

    def key(self, id: str) -> str:
        assert isinstance(self.memory, RedisMachineMemory)
        return self.memory._key(id)

    def expire(self, id: str, *, ago: float = 0.0) -> None:
        assert self.client.hexists(self.key(id), "lease_token")
        self.client.hset(self.key(id), "lease_expires_at", self._time(ago))

    def age(self, id: str, seconds: float) -> None:
        assert self.client.hexists(self.key(id), "written_at")
        self.client.hset(self.key(id), "written_at", self._time(seconds))

    def _time(self, ago: float) -> int:
        seconds, microseconds = self.client.time()
        return int(seconds * 1_000_000 + microseconds - round(ago * 1_000_000))

    def lease_of(self, id: str) -> tuple[str, float] | None:
        token, expires_at = self.client.hmget(self.key(id), "lease_token", "lease_expires_at")
        return (token.decode(), int(expires_at) / 1_000_000) if token else None

    def count(self) -> int:
        return len(self._keys())

    def asked(self) -> AbstractContextManager[list[str]]:
        return sent_by(self.memory)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        scan = RedisMachineMemory._scan

        def at_the_beginning_of_time(memory: Any, *names: str) -> Iterator[Any]:
            return ((id, 0, row) for id, _now, row in scan(memory, *names))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RedisMachineMemory, "_scan", at_the_beginning_of_time)
            yield

    @property
    def decisive(self) -> bytes:
        return b"EVALSHA"

    def close(self) -> None:
        if keys := self._keys():
            self.client.delete(*keys)

    @contextmanager
    def through_proxy(self) -> Iterator[tuple[BaseMachineMemory, Proxy]]:
        address = redis.connection.parse_url(self.location)  # type: ignore[no-untyped-call]
        proxy = Proxy((address.pop("host"), address.pop("port")))
        client = redis.Redis(host="127.0.0.1", port=proxy.port, **address)
        memory = RedisMachineMemory(client=client, key_prefix=f"{servers.PREFIX}:1:")
        try:
            yield memory, proxy
        finally:
            self.hang_up(memory)
            proxy.close()

    def hang_up(self, memory: BaseMachineMemory) -> None:
        assert isinstance(memory, RedisMachineMemory)
        memory._client.connection_pool.disconnect()

    @property
    def location(self) -> str:
        """The address that the memory has, with its user."""
        return str(caches.settings[self.alias]["LOCATION"])

    def _keys(self) -> list[bytes]:
        return list(self.client.scan_iter(f"{caches[self.alias].key_prefix}:*", count=1000))


def named(name: str) -> Store:
    """Return the store that a parameter of a test names."""
    if name.removesuffix(ORM) in DATABASES:
        return DatabaseStore(name)
    return RedisStore(name) if name in servers.CACHES else SimpleStore(name)
