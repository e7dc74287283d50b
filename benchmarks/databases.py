"""Scratch databases: made when needed and dropped afterwards; nothing else on a server is touched."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from django.core.management import call_command
from django.db import connections

from benchmarks.order import order
from benchmarks.settings import OF_THE_ADMIN
from machine_memory import sql
from machine_memory.encoding import encode
from machine_memory.models import MachineRecord

NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mariadb": "MariaDB"}
HELD_EVERY = 100
NONE, SPREAD, NEWEST = "FALSE", f"n %% {HELD_EVERY} = 0", "n > {count} - 10000"
"""Which machines ``fill`` puts under a lease: half of the leases are live, and half have expired."""
FAMILY, CHILDREN = 1_000, 9
"""Of so many machines the first is the parent of so many that follow."""
RARE_EVERY = 10_000
"""Of so many machines one has the status ``RARE``, and all the others ``COMMON``."""
COMMON, RARE = "packed", "failed"
TABLE = MachineRecord._meta.db_table
STRIDE = 618_033_989
"""Coprime to the numbers of machines, so that ``ids`` comes to all of them, each time far from the last."""


class Router:
    """Lets the admin keep its users and sessions in ``default``, and the machines everywhere else."""

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
        return (db == "default") == (app_label in OF_THE_ADMIN)


def available() -> list[str]:
    return [name for name in NAMES if name in connections.settings]


@contextmanager
def scratch(*aliases: str) -> Iterator[None]:
    """Have empty tables in new databases, until the block ends."""
    with ExitStack() as undo:
        for alias in aliases:
            undo.callback(_drop, alias)
            _create(alias)
        yield


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


def fill(alias: str, count: int, *, held: str = NONE) -> None:
    """Insert ``count`` machines with the usual state, before anybody else connects."""
    connection = connections[alias]
    vendor = connection.vendor
    words = {name: text.format(count=count, n="n") for name, text in _WORDS[vendor].items()}
    later = sql.LATER[vendor].format(words["spread"])
    lease = f"CASE WHEN {held.format(count=count)} THEN {{}} END"
    parent = _WORDS[vendor]["id"].format(n=f"(n - n %% {FAMILY})")
    kin = f"CASE WHEN n %% {FAMILY} BETWEEN 1 AND {CHILDREN} THEN {parent} {{}} END"
    columns = {
        "id": words["id"],
        "data": "%(data)s" + ("::json" if vendor == "postgresql" else ""),
        "version": "1",
        "status": f"CASE WHEN n %% {RARE_EVERY} = 0 THEN '{RARE}' ELSE '{COMMON}' END",
        "parent": kin.format(""),
        "root": kin.format(f"ELSE {words['id']}"),
        "fence": "n",
        "created_at": sql.NOW[vendor],
        "written_at": sql.NOW[vendor],
        "lease_token": lease.format(words["token"]),
        "lease_owner": lease.format("'another-host:1:MainThread'"),
        "lease_acquired_at": lease.format(sql.NOW[vendor]),
        "lease_expires_at": lease.format(later),
    }
    before, after = _AROUND[vendor]
    with connection.cursor() as cursor:
        for statement in before:
            cursor.execute(statement)
        names, values = ", ".join(columns), ", ".join(columns.values())
        cursor.execute(
            f"INSERT INTO {TABLE} ({names}) SELECT {values} FROM {words['numbers']}",  # noqa: S608 - All of it is above.
            {"data": encode(order(), max_bytes=100_000, max_depth=10)},
        )
        for statement in after:
            cursor.execute(statement)


def fill_all(sizes: dict[str, int], *, held: str) -> None:
    """Fill the databases of the aliases side by side: it is the servers that work."""

    def fill_one(alias: str) -> None:
        try:
            fill(alias, sizes[alias], held=held)
        finally:
            connections[alias].close()

    with ThreadPoolExecutor() as threads:
        list(threads.map(fill_one, sizes))
    os.sync()  # Else the system writes it out while the first comparison waits for its own.


_WORDS = {
    "postgresql": {
        "numbers": "GENERATE_SERIES(1, {count}) n",
        "id": "'order-' || LPAD({n}::text, 8, '0')",
        "token": "LPAD(n::text, 32, '0')",
        "spread": "n %% 7207 - 3600",
    },
    "mysql": {
        "numbers": "(SELECT CAST(seq AS SIGNED) AS n FROM seq_1_to_{count}) numbers",
        "id": "CONCAT('order-', LPAD({n}, 8, '0'))",
        "token": "LPAD(n, 32, '0')",
        "spread": "(n %% 7207 - 3600) * 1000000",
    },
    "sqlite": {
        "numbers": "(WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers LIMIT {count})"
        " SELECT n FROM numbers)",
        "id": "PRINTF('order-%%08d', {n})",
        "token": "PRINTF('%%032d', n)",
        "spread": "(n %% 7207 - 3600) || ' seconds'",
    },
}
# Before: SQLite would write everything twice. After: what a server does in the background after a large insert would be
# measured along with what comes first.
_AROUND = {
    "postgresql": ([], [f"VACUUM ANALYZE {TABLE}", "CHECKPOINT"]),
    "mysql": ([], [f"ANALYZE TABLE {TABLE}"]),
    "sqlite": (
        ["PRAGMA journal_mode = OFF", "PRAGMA synchronous = OFF"],
        ["PRAGMA synchronous = NORMAL", "PRAGMA journal_mode = WAL"],
    ),
}


def _create(alias: str) -> None:
    connection = connections[alias]
    if connection.vendor != "sqlite":
        charset = " CHARACTER SET utf8mb4" if connection.vendor == "mysql" else ""
        _drop(alias)
        with connection._nodb_cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {connection.settings_dict['NAME']}{charset}")
    call_command("migrate", database=alias, run_syncdb=True, verbosity=0)
    connection.close()  # Another thread may be about to fill it.


def _drop(alias: str) -> None:
    connection = connections[alias]
    connections.close_all()  # Another alias may be the same database with other options.
    name = connection.settings_dict["NAME"]
    if connection.vendor == "sqlite":
        for suffix in ("", "-wal", "-shm"):
            Path(f"{name}{suffix}").unlink(missing_ok=True)
        return
    force = " WITH (FORCE)" if connection.vendor == "postgresql" else ""
    with connection._nodb_cursor() as cursor:
        cursor.execute(f"DROP DATABASE IF EXISTS {name}{force}")
