"""What the figures depend on: the machine, versions, and how durable each store is set up to be."""

import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from django.db import connections

from benchmarks import databases, redis_store

PACKAGES = (
    *("django", "psycopg", "psycopg-binary", "mysqlclient", "redis", "hiredis"),
    *("django-pglock", "python-redis-lock", "langgraph-checkpoint-postgres"),
)
SETTINGS = {
    "postgresql": [
        *("fsync", "synchronous_commit", "full_page_writes", "wal_level", "autovacuum"),
        *("shared_buffers", "max_wal_size"),
    ],
    "mysql": [
        *("innodb_flush_log_at_trx_commit", "log_bin", "sync_binlog", "innodb_doublewrite", "innodb_flush_method"),
        "innodb_buffer_pool_size",
    ],
    "sqlite": ["journal_mode", "synchronous", "wal_autocheckpoint", "cache_size"],
}

SYNCHRONOUS = ("OFF", "NORMAL", "FULL", "EXTRA")


def describe() -> dict[str, str]:
    """Return what there is, by name. The scratch databases must be there."""
    return {
        "machine": f"{_processor()}, {os.cpu_count()} CPUs, {_memory()}, {platform.system()} {platform.release()}",
        "Python": f"{platform.python_version()}; {', '.join(_packages())}",
        **{databases.NAMES[name]: _database(name) for name in databases.available()},
        **_redis(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.machine())


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB of memory"
    except (ValueError, OSError):
        return "memory unknown"


def _packages() -> Iterator[str]:
    for package in PACKAGES:
        try:
            yield f"{package} {version(package)}"
        except PackageNotFoundError:
            yield f"{package} absent"


def _database(alias: str) -> str:
    connection = connections[alias]
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            from sqlite3 import sqlite_version as release  # noqa: PLC0415

            settings = {name: _value(cursor, f"PRAGMA {name}") for name in SETTINGS["sqlite"]}
            settings["synchronous"] = SYNCHRONOUS[int(settings["synchronous"])]
        elif connection.vendor == "postgresql":
            release = _value(cursor, "SHOW server_version")
            settings = {name: _value(cursor, f"SHOW {name}") for name in SETTINGS["postgresql"]}
        else:
            release = _value(cursor, "SELECT VERSION()")
            settings = {name: _value(cursor, f"SELECT @@GLOBAL.{name}") for name in SETTINGS["mysql"]}
    return f"{release}; {', '.join(f'{name} = {value}' for name, value in settings.items())}"


def _value(cursor: Any, statement: str) -> str:
    cursor.execute(statement)
    return str(cursor.fetchone()[0])


def _redis() -> dict[str, str]:
    if redis_store.missing():
        return {}
    with redis_store.client() as client:
        settings = {name: client.config_get(name).get(name) for name in ("appendonly", "appendfsync", "save")}
        release = client.info("server")["redis_version"]
    return {"Redis": f"{release}; {', '.join(f'{name} = {value}' for name, value in settings.items())}"}
