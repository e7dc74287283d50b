"""Who competes on which store: this package, and the raw driver that runs the same statements by hand."""

import json
import re
import secrets
import sqlite3
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from contextvars import Context
from functools import partial
from itertools import islice
from typing import Any

from django.db import connections

from benchmarks import stores
from benchmarks.measure import CYCLE, Steps
from benchmarks.order import USUAL, advance, encode, order
from machine_memory import BaseMachineMemory, DatabaseMachineMemory
from machine_memory.backends.database.clock import OFFSET
from machine_memory.backends.database.page import Page
from machine_memory.backends.redis import NAMESPACE, scripts
from machine_memory.models import MachineRecord

OURS, ORM_FORM, PREPARED = "machine_memory", "machine_memory, ORM form", "machine_memory, prepared"
RAW, RAW_PREPARED = "raw driver", "raw driver, prepared"
DENIED, VERBS = "denied lock", ("lock", "read", "write", "unlock")
HELD = 9
"""So many machines of ``stores.held_ids`` are under somebody else's lease."""
TTL = 120
OWNER = "host:1:MainThread"
LABELS = {"status": "packed", "source": None, "initiator": None, "parent": None}


class Raw(ABC):
    """JSON in and out, a fresh token each time, and four steps by hand; nothing else."""

    _token = ""

    def cycle(self, id: str) -> None:
        text, version = self.lock(id) or ("", 0)
        state = json.loads(text)
        advance(state)
        expect(self._save(id, encode(state), version))

    def read(self, id: str) -> object:
        return json.loads(self._text(id))

    def write(self, id: str, state: dict[str, Any]) -> object:
        return self._save(id, encode(state))

    @abstractmethod
    def lock(self, id: str) -> tuple[str, int] | None:
        """Return the state and its version, if nobody else has a lease."""

    @abstractmethod
    def unlock(self, id: str) -> object: ...

    @abstractmethod
    def _text(self, id: str) -> str: ...

    @abstractmethod
    def _save(self, id: str, text: str, version: int | None = None) -> object:
        """Return whether it was done. ``version``: it must be this one still, and the lease ends with it."""


class RawDict(Raw):
    """A dict and a mutex."""

    def __init__(self, state: dict[str, Any], count: int) -> None:
        self._mutex = threading.Lock()
        self._machines = {stores.machine_id(number): (encode(state), 1) for number in range(1, count + 1)}
        self._leases: dict[str, tuple[str, float]] = {}

    def lock(self, id: str) -> tuple[str, int] | None:
        token = secrets.token_hex(16)
        with self._mutex:
            _, expires_at = self._leases.get(id, ("", 0.0))
            if expires_at > time.monotonic():
                return None
            self._leases[id] = (token, time.monotonic() + TTL)
            self._token = token
            return self._machines[id]

    def unlock(self, id: str) -> bool:
        with self._mutex:
            return self._leases.pop(id)[0] == self._token

    def _text(self, id: str) -> str:
        with self._mutex:
            return self._machines[id][0]

    def _save(self, id: str, text: str, version: int | None = None) -> bool:
        with self._mutex:
            token, expires_at = self._leases[id]
            if token != self._token or expires_at <= time.monotonic():
                return False
            self._machines[id] = (text, self._machines[id][1] + 1)
            if version:
                del self._leases[id]
            return True


class RawRedis(Raw):
    """The scripts of this package through redis-py's own client."""

    def __init__(self, client: Any) -> None:
        self._client = client
        for script in (scripts.ACQUIRE, scripts.WRITE, scripts.RELEASE):
            self._client.script_load(script.text)

    def lock(self, id: str) -> tuple[str, int] | None:
        self._token = secrets.token_hex(16)
        row = self._run(scripts.ACQUIRE, id, OWNER, TTL * 1_000_000, "")
        return row and (row[0], row[1])

    def unlock(self, id: str) -> object:
        return self._run(scripts.RELEASE, id)

    def _text(self, id: str) -> Any:
        return self._client.hget(self._key(id), "data")

    def _save(self, id: str, text: str, version: int | None = None) -> object:
        labels = [LABELS[name] or "" for name in ("status", "source", "initiator")]
        if version:  # It ends the lease, and what is empty at the end is left out.
            return self._run(scripts.WRITE, id, version, "1", text, *labels) > 0
        no_more = ("", "", "", "", "", id)  # No new expiry, no timer, no hints, no parent; the root.
        return self._run(scripts.WRITE, id, "", "", text, *labels, *no_more) > 0

    def _run(self, script: scripts.Script, id: str, *given: str | int) -> Any:
        return self._client.evalsha(script.digest, 1, self._key(id), self._token, *given)

    def _key(self, id: str) -> str:
        return f"{stores.PREFIX}{NAMESPACE}{id}"


class RawSQL(Raw):
    """The statements of this package, on a connection with the same settings."""

    def __init__(self, store: str, connection: Any) -> None:
        self._connection = connection
        page = Page(store, connections[store], MachineRecord)
        texts = [page.acquire, page.insert_lease or "", page.read, page.release]
        texts += [page.write("", None, False), page.write("", 1, True)]
        if store == "sqlite":
            texts = [re.sub(r"%\((\w+)\)s", r":\1", text).replace("%%", "%") for text in texts]
        self._acquire, self._insert_lease, self._select, self._release, self._write, self._commit = texts
        lease = {"owner": OWNER, "trace": None, "wait": "500ms", "ttl": OFFSET[page.vendor](TTL)}
        self._common = {**lease, **LABELS, "ancestor": None}

    def lock(self, id: str) -> tuple[str, int] | None:
        self._token = secrets.token_hex(16)
        params = {**self._common, "id": id, "token": self._token, "microseconds": time.time_ns() // 1000}
        row = self._run(self._acquire, params)
        if row is None and self._insert_lease:
            row = self._run(self._insert_lease, params)
        return (row[1], row[2]) if row and row[0] == self._token else None

    def unlock(self, id: str) -> object:
        return self._run(self._release, {"id": id, "token": self._token})

    def _text(self, id: str) -> Any:
        return self._run(self._select, {"id": id})[0]

    def _save(self, id: str, text: str, version: int | None = None) -> object:
        params = {"id": id, "token": self._token, "data": text, "expected_version": version, **self._common}
        return self._run(self._commit if version else self._write, params)

    def _run(self, text: str, params: dict[str, Any]) -> Any:
        """Return the row, or how many there were where none comes back."""
        with closing(self._connection.cursor()) as cursor:
            cursor.execute(text, params)
            return cursor.fetchone() if cursor.description else cursor.rowcount


def postgresql(**options: Any) -> Any:
    import psycopg  # noqa: PLC0415  # It may be missing, and then nobody asks for it.

    params = connections["postgresql"].get_connection_params()
    names = ("host", "port", "user", "password", "dbname", "options", "sslmode")
    return psycopg.connect(**{name: params[name] for name in names if params.get(name)}, autocommit=True, **options)


def _sqlite() -> Any:
    connection = connections["sqlite"]
    params, options = connection.get_connection_params(), connection.settings_dict["OPTIONS"]
    raw = sqlite3.connect(params["database"], isolation_level=None, timeout=params["timeout"])
    raw.executescript(f"PRAGMA foreign_keys = ON; {options['init_command']}")
    return raw


def _mariadb() -> Any:
    import MySQLdb  # noqa: PLC0415  # As above.

    raw = MySQLdb.connect(**connections["mariadb"].get_connection_params(), autocommit=True)
    raw.query("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
    return raw


CONNECT: dict[str, dict[str, Callable[[], Any]]] = {
    "sqlite": {RAW: _sqlite},
    # As it must be behind PgBouncer, and as psycopg does by default.
    "postgresql": {RAW: partial(postgresql, prepare_threshold=None), RAW_PREPARED: postgresql},
    "mariadb": {RAW: _mariadb},
}


@contextmanager
def on_store(store: str, count: int, *, size: int = USUAL, held: str = stores.NONE) -> Iterator[dict[str, Steps]]:
    """Have ``count`` machines in a scratch store, and its contestants by name."""
    state = order(size)
    with stores.scratch({store: count}, size=size, held=held), ExitStack() as ended:
        those: dict[str, BaseMachineMemory | Raw] = {OURS: stores.memory(store)}
        if store == stores.SIMPLE:
            those[RAW] = RawDict(state, count)
        elif store == stores.REDIS:
            those[RAW] = RawRedis(ended.enter_context(stores.redis()))
        else:
            for name, connect in CONNECT[store].items():
                those[name] = RawSQL(store, ended.enter_context(closing(connect())))
            if f"{store}-prepared" in connections.settings:  # Django lets psycopg prepare its statements there.
                those[PREPARED] = stores.memory(f"{store}-prepared")
            those[ORM_FORM] = DatabaseMachineMemory(using=store, one_statement=False)
        yield {name: _steps(memory, state) for name, memory in those.items()}


def _steps(memory: BaseMachineMemory | Raw, state: dict[str, Any]) -> Steps:
    """Return what is timed. It fails where it has not done what it is timed for."""
    return {
        CYCLE: memory.cycle if isinstance(memory, Raw) else cycle(memory),
        DENIED: lambda id: expect(not memory.lock(id)),
        "lock": lambda id: expect(memory.lock(id)),
        "read": lambda id: expect(memory.read(id)),
        "write": lambda id: expect(memory.write(id, state)),
        "unlock": lambda id: expect(memory.unlock(id)),
    }


def cycle(memory: BaseMachineMemory) -> Callable[[str], None]:
    """Return what takes the lease, reads the state, changes it, writes it and releases."""

    def take(id: str) -> None:
        with memory.lease(id) as lease:
            state = lease.data
            advance(state)
            lease.commit(state)

    return take


def hold(contestants: Mapping[str, Steps], count: int) -> None:
    """Let the first who can lock some of ``count`` machines, in a context that is not the one that is measured."""
    for id in islice(stores.held_ids(count), HELD):
        for steps in contestants.values():
            with suppress(RuntimeError):
                Context().run(steps["lock"], id)


def expect(outcome: object) -> None:
    if not outcome:
        raise RuntimeError("A contestant did not do what it is timed for.")
