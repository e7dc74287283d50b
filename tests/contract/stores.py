"""The memories under test, and what only the operators of their stores could do to them."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from typing import Any, TypeVar

from asgiref.sync import sync_to_async

import tests
from machine_memory import BaseMachineMemory, SimpleMachineMemory
from machine_memory.backends.simple import SimpleStore as StoreInProcess
from machine_memory.core.records import Sought
from tests.proxy import Proxy

T = TypeVar("T")

DATABASES = {"sqlite": "default", "postgresql": "postgresql", "mariadb": "mariadb"}
"""The aliases that the databases have in the settings of the tests."""
ORM = " through the ORM"
"""Marks a store whose steps take the form of the ORM."""


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
    nodes = 1
    """Servers that share the machines."""

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
        assert isinstance(self.memory.store, StoreInProcess)
        return self.memory.store._machines


def named(name: str) -> Store:
    """Return the store that a parameter of a test names; each room says in its module ``store`` which it has."""
    rooms = [room.name for room in iter_modules(tests.__path__, "tests.") if room.ispkg]
    modules = [import_module(f"{room}.store") for room in rooms if find_spec(f"{room}.store")]
    kinds = {known: kind for module in modules for known, kind in module.STORES.items()}
    store: Store = kinds.get(name, SimpleStore)(name)
    return store


def looked_through(memory: BaseMachineMemory, sought: Sought) -> set[str]:
    """Return the ids of all that a memory finds in as many looks as it takes, whatever else lies in its server."""
    machines, further = memory.store.look(sought, "", 100)
    while further:
        more, further = memory.store.look(sought, further, 100)
        machines += more
    return {machine.id for machine in machines}
