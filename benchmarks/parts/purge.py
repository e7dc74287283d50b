"""Purging expired locks: in batches, next to one bare statement; and the memory that it takes."""

import time

from django.db import connections

from benchmarks import databases
from benchmarks.databases import TABLE
from benchmarks.report import Bar, Cell, Section, Table
from benchmarks.resident import purged
from benchmarks.run import Run
from machine_memory import sql
from machine_memory.clock import OFFSET

LARGE, USUAL, QUICK = 1_000_000, 50_000, 2_000
"""Expired locks."""
HOUR = 3600
MIB = 2**20
MOST = 100
"""MiB that the process which purges may need."""


def measured(run: Run) -> Section:
    count = LARGE if run.large else QUICK if run.quick else USUAL
    section = Section(
        "Purge",
        f"`purge_expired_locks` ends {count:,} expired leases, a thousand at a time, and passes over rows in use; one"
        " bare UPDATE of all of them keeps every row until it is done. Memory is the most that a fresh process needed.",
    )
    rows: list[list[Cell]] = []
    for name in databases.available():
        run.says(f"{count:,} expired locks, {databases.NAMES[name]}")
        with databases.scratch(name):
            databases.fill(name, count)
            expire_all(name)
            bare = _bare(name)
            expire_all(name)
            connections[name].close()
            seconds, size = purged(name)
        memory = size and size / MIB
        rows.append([databases.NAMES[name], count / seconds, seconds, bare, seconds / bare, memory])
        if memory is not None:
            what = f"{databases.NAMES[name]}: memory while {count:,} expired locks are purged"
            section.bars.append(Bar(what=what, measured=memory, unit="MiB", most=MOST))
    columns = ["", "leases a second", "seconds", "bare statement, seconds", "ratio", "memory, MiB"]
    section.tables.append(Table("Purge", columns, rows))
    return section


def expire_all(alias: str) -> None:
    """Let every machine have a lease that ended an hour ago."""
    vendor = connections[alias].vendor
    past = sql.LATER[vendor].format("%(past)s")
    with connections[alias].cursor() as cursor:
        cursor.execute(
            f"UPDATE {TABLE} SET lease_token = 'x', lease_owner = 'x', lease_acquired_at = {past},"  # noqa: S608
            f" lease_expires_at = {past}",
            {"past": OFFSET[vendor](-HOUR)},
        )
        if vendor == "postgresql":
            cursor.execute(f"VACUUM ANALYZE {TABLE}")


def _bare(alias: str) -> float:
    now = sql.NOW[connections[alias].vendor]
    started = time.perf_counter()
    with connections[alias].cursor() as cursor:
        cursor.execute(
            f"UPDATE {TABLE} SET lease_token = NULL, lease_owner = NULL, lease_acquired_at = NULL,"  # noqa: S608
            f" lease_expires_at = NULL WHERE lease_expires_at <= {now}",
            {},
        )
    return time.perf_counter() - started
