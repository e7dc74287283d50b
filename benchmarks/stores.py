"""The stores: scratch databases, made when needed and dropped afterwards, keys of their own on Redis, and a dict."""

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from django.core.management import call_command
from django.db import connections
from redis import Redis, RedisError

from benchmarks.order import USUAL, encode, order
from benchmarks.settings import OF_THE_ADMIN
from machine_memory import BaseMachineMemory, DatabaseMachineMemory, RedisMachineMemory, SimpleMachineMemory
from machine_memory.backends.database import sql
from machine_memory.backends.database.clock import StoreTime
from machine_memory.models import MachineRecord
from tests import servers

REDIS, SIMPLE, PREFIX = "redis", "simple", "machine-memory-bench:"
NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mariadb": "MariaDB"}
NAMES |= {REDIS: "Redis", SIMPLE: "SimpleMachineMemory"}
DATABASES = [name for name in NAMES if name in connections.settings]
TABLE = MachineRecord._meta.db_table
HOUR = 3_600
HELD_EVERY = 100
NONE, SPREAD, NEWEST = "FALSE", f"n %% {HELD_EVERY} = 0", "n > {count} - 10000"
"""Which machines ``scratch`` puts under a lease: half of the leases are live, and half have expired."""
FAMILY, CHILDREN = 1_000, 9
"""Of so many machines the first is the parent of so many that follow."""
RARE_EVERY, COMMON, RARE = 10_000, "packed", "failed"
"""Of so many machines one has the rare status, and all the others the common one."""
STRIDE = 618_033_989
"""Coprime to the numbers of machines, so that ``ids`` comes to all of them, each time far from the last."""
# A table of so many ``n``; up to an hour before or after, as ``sql.LATER`` takes it; what comes before the insert, for
# SQLite would write it twice; and after, for what a server does in the background would be measured along.
_DIALECTS: dict[str, tuple[str, str, list[str], list[str]]] = {
    "postgresql": (
        *("GENERATE_SERIES(1, {count}) n", "n %% 7207 - 3600"),
        *([], [f"VACUUM ANALYZE {TABLE}", "CHECKPOINT"]),
    ),
    "mysql": (
        *("(SELECT CAST(seq AS SIGNED) AS n FROM seq_1_to_{count}) numbers", "(n %% 7207 - 3600) * 1000000"),
        *([], [f"ANALYZE TABLE {TABLE}"]),
    ),
    "sqlite": (
        "(WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers LIMIT {count})"
        " SELECT n FROM numbers)",
        "(n %% 7207 - 3600) || ' seconds'",
        ["PRAGMA journal_mode = OFF", "PRAGMA synchronous = OFF"],
        ["PRAGMA synchronous = NORMAL", "PRAGMA journal_mode = WAL"],
    ),
}


class Router:
    """Lets the admin keep its users and sessions in ``default``, and the machines everywhere else."""

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
        return (db == "default") == (app_label in OF_THE_ADMIN)


def redis() -> Redis:
    url = os.environ.get("MACHINE_MEMORY_REDIS", "redis://127.0.0.1:6379/0")
    return Redis.from_url(url, socket_connect_timeout=2)


def _missing() -> dict[str, str]:
    try:
        with redis() as client:
            client.ping()
    except RedisError as error:
        return servers.missing | {REDIS: f"no server answers ({error})"}
    return dict(servers.missing)


missing = _missing()
"""Why a server is not there, by its name."""
SERVED = [*DATABASES, *({REDIS} - missing.keys())]
STORES = [*SERVED, SIMPLE]


@cache
def memory(store: str) -> BaseMachineMemory:
    match store:
        case "redis":
            return RedisMachineMemory(client=redis(), key_prefix=PREFIX)
        case "simple":
            return SimpleMachineMemory()
    return DatabaseMachineMemory(using=store)


@contextmanager
def scratch(counts: Mapping[str, int], *, size: int = USUAL, held: str = NONE) -> Iterator[None]:
    """Have stores with so many machines and nothing else, new databases among them, until the block ends."""

    def fill(store: str) -> None:
        if store in connections.settings:
            _insert(store, counts[store], encode(order(size)), held.format(count=counts[store]))
        else:
            for number in range(1, counts[store] + 1):
                memory(store).write(machine_id(number), order(size))

    with ExitStack() as undo:
        for store in counts:
            undo.callback(_drop, store)
            _drop(store)
            if store in connections.settings:
                _create(store)
        with ThreadPoolExecutor() as threads:  # It is the servers that work.
            list(threads.map(fill, filter(counts.get, counts)))
        os.sync()  # Else the system writes it out while the first comparison waits for its own.
        yield


def lease(database: str, seconds: float, *, after: int = 0) -> None:
    """Let every machine after a number have a lease that ends in so many seconds, or that ended before."""
    begin, end = StoreTime(seconds - HOUR), StoreTime(seconds)
    machines = MachineRecord.objects.using(database).filter(pk__gt=machine_id(after))
    machines.update(lease_token="0" * 32, lease_owner="another", lease_acquired_at=begin, lease_expires_at=end)


def end_expired(database: str) -> None:
    """Do in one bare statement what a purge does in batches."""
    expired = MachineRecord.objects.using(database).filter(lease_expires_at__lte=StoreTime())
    expired.update(lease_token=None, lease_owner=None, lease_acquired_at=None, lease_expires_at=None)


def ids(count: int) -> Iterator[str]:
    """Return ids of free machines without end, out of ``count`` that are there."""
    number = 0
    while True:
        number = (number + STRIDE) % count
        if number % HELD_EVERY:
            yield machine_id(number)


def held_ids(count: int) -> Iterator[str]:
    """Return ids of the machines that are left out of ``ids``."""
    while True:
        yield from map(machine_id, range(HELD_EVERY, count, HELD_EVERY))


def machine_id(number: int) -> str:
    return f"order-{number:08}"


def _insert(database: str, count: int, text: str, held: str) -> None:
    connection = connections[database]
    numbers, _, before, after = _DIALECTS[connection.vendor]
    columns = _columns(connection.vendor, held)
    names, values = ", ".join(columns), ", ".join(columns.values())
    insert = f"INSERT INTO {TABLE} ({names}) SELECT {values} FROM {numbers.format(count=count)}"  # noqa: S608
    with closing(connection), connection.cursor() as cursor:
        for statement in before:
            cursor.execute(statement)
        cursor.execute(insert, {"data": text})
        for statement in after:
            cursor.execute(statement)


def _columns(vendor: str, held: str) -> dict[str, str]:
    """Return what goes into each column."""
    id, parent = _text("order-", "n"), _text("order-", f"(n - n %% {FAMILY})")
    child, lease = f"n %% {FAMILY} BETWEEN 1 AND {CHILDREN}", f"CASE WHEN {held} THEN {{}} END"
    now = sql.NOW[vendor]
    return {
        "id": id,
        "data": "%(data)s::json" if vendor == "postgresql" else "%(data)s",
        "version": "1",
        "status": f"CASE WHEN n %% {RARE_EVERY} = 0 THEN '{RARE}' ELSE '{COMMON}' END",
        "parent": f"CASE WHEN {child} THEN {parent} END",
        "root": f"CASE WHEN {child} THEN {parent} ELSE {id} END",
        "fence": "n",
        "created_at": now,
        "written_at": now,
        "lease_token": lease.format(_text("0" * 24, "n")),
        "lease_owner": lease.format("'another-host:1:MainThread'"),
        "lease_acquired_at": lease.format(now),
        "lease_expires_at": lease.format(sql.LATER[vendor].format(_DIALECTS[vendor][1])),
    }


def _text(prefix: str, number: str) -> str:
    """Return the expression of a prefix with eight digits, as every dialect understands it."""
    return f"REPLACE('{prefix}#', '#', SUBSTR(CAST(100000000 + {number} AS CHAR(9)), 2))"


def _create(database: str) -> None:
    connection = connections[database]
    if connection.vendor != "sqlite":
        charset = " CHARACTER SET utf8mb4" if connection.vendor == "mysql" else ""
        with connection._nodb_cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {connection.settings_dict['NAME']}{charset}")
    call_command("migrate", database=database, run_syncdb=True, verbosity=0)
    connection.close()  # Another thread may be about to fill it.


def _drop(store: str) -> None:
    memory.cache_clear()
    if store == REDIS:
        with redis() as client:
            if keys := list(client.scan_iter(f"{PREFIX}*", count=1_000)):
                client.unlink(*keys)
    if store not in connections.settings:
        return
    connection = connections[store]
    connections.close_all()  # Another alias may be the same database with other options.
    name = connection.settings_dict["NAME"]
    if connection.vendor == "sqlite":
        for suffix in ("", "-wal", "-shm"):
            Path(f"{name}{suffix}").unlink(missing_ok=True)
        return
    force = " WITH (FORCE)" if connection.vendor == "postgresql" else ""
    with connection._nodb_cursor() as cursor:
        cursor.execute(f"DROP DATABASE IF EXISTS {name}{force}")
