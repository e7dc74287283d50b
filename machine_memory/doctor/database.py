"""What the doctor asks a database."""

import secrets
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from typing import Any

from django.db import router, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.executor import MigrationExecutor

from machine_memory import sql
from machine_memory.backends.database import DatabaseMachineMemory
from machine_memory.clock import as_utc
from machine_memory.doctor import findings
from machine_memory.doctor.findings import ERROR, OK, PREFIX, WARNING, Probe, Verdict
from machine_memory.models import MachineRecord

IDS = {
    "the first": "a",
    "case": "A",
    "a trailing space": "a ",
    "an accent": "á",
    "having an emoji": "😀",
    "the emoji": "😁",
}
"""Ends of ids, and by what each differs from one before it."""


def probes(memory: DatabaseMachineMemory) -> Iterator[tuple[str, Probe]]:
    connection = memory._connection
    for check, probe in {**FIRST, **OF_VENDOR[connection.vendor], **LAST}.items():
        yield check, partial(probe, connection)


def answers(connection: BaseDatabaseWrapper) -> Iterator[Verdict]:
    connection.ensure_connection()
    version = ".".join(map(str, connection.get_database_version()))
    yield OK, f"{connection.display_name} {version} answers."


def clock(connection: BaseDatabaseWrapper) -> Iterator[Verdict]:
    def ask() -> float:
        (now,) = _row(connection, sql.CLOCK[connection.vendor])
        return as_utc(now if isinstance(now, datetime) else datetime.fromisoformat(now), connection).timestamp()

    return findings.clock(ask)


def time_zone(connection: BaseDatabaseWrapper) -> Iterator[Verdict]:
    offset, name = _row(connection, sql.TIME_ZONE)
    if offset:
        yield (
            WARNING,
            f"The session's time zone is {name!r}, {offset / 3600:+g} h from UTC: this memory reckons in UTC all the"
            " same, other code that asks for NOW() does not. Set the server's default_time_zone to '+00:00'.",
        )
    else:
        yield OK, "The session's time is UTC."


def isolation(connection: BaseDatabaseWrapper) -> Iterator[Verdict]:
    levels = {_isolation(connection)}
    with transaction.atomic(using=connection.alias):
        levels.add(_isolation(connection))
    for level in sorted(levels & {"repeatable read", "serializable"}):
        yield (
            WARNING,
            f"Transactions are {level}: steps that meet are refused or deadlock where one would wait for the other."
            f" Leave {connection.alias!r} at read committed, in its OPTIONS and at the server.",
        )
        return
    yield OK, f"Transactions are {', '.join(sorted(levels))}."


def _isolation(connection: BaseDatabaseWrapper) -> str:
    settings = _settings(connection)
    level = settings.get("transaction_isolation") or settings["tx_isolation"]
    return level.lower().replace("-", " ")


def writable(connection: BaseDatabaseWrapper) -> Iterator[Verdict]:
    # A standby of PostgreSQL has every transaction read-only.
    settings = _settings(connection).items()
    on = sorted(name for name, value in settings if name.endswith("read_only") and value.lower() not in ("off", "0"))
    if on:
        yield ERROR, f"The server is read-only ({', '.join(on)}): a replica? Name the primary as `using`."
    else:
        yield OK, "The server takes writes."


def pooler(connection: BaseDatabaseWrapper) -> Iterator[Verdict]:
    session: Any = connection.connection
    if _row(connection, sql.BACKEND_PID) == (session.info.backend_pid,):
        yield OK, "No pooler is in between."
    elif getattr(session, "prepare_threshold", None) is None:
        yield OK, "A pooler is in between, and no statement is prepared, which any of them bears."
    else:
        yield (
            WARNING,
            "A pooler is in between, and statements are prepared: the next session may not know them. Take"
            " prepare_threshold out of the OPTIONS of the database, unless it is a PgBouncer from 1.21 on that has"
            " max_prepared_statements set, or pools by session.",
        )


def journal(connection: BaseDatabaseWrapper) -> Iterator[Verdict]:
    (mode,) = _row(connection, sql.JOURNAL)
    if mode == "wal":
        yield OK, "The journal is a WAL: readers and the writer do not wait for each other."
    else:
        yield (
            WARNING,
            f"The journal mode is {mode}: readers wait for the writer, and it for them. Set"
            ' "init_command": "PRAGMA journal_mode = WAL" in the OPTIONS of the database.',
        )


def routing(connection: BaseDatabaseWrapper) -> Iterator[Verdict]:
    own = f"This memory reads from and writes to {connection.alias!r} alone"
    reads, writes = router.db_for_read(MachineRecord), router.db_for_write(MachineRecord)
    if reads != writes:
        yield (
            WARNING,
            f"{own}, but the routers send other code that reads MachineRecord to {reads!r}, and its writes to"
            f" {writes!r}: it may see old state. Read through the memory, or with `using`.",
        )
    elif reads != connection.alias:
        yield OK, f"{own}; the routers send other code that asks for MachineRecord to {reads!r}."
    else:
        yield OK, f"{own}, as the routers have it."


def migrations(connection: BaseDatabaseWrapper) -> Iterator[Verdict]:
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes(MachineRecord._meta.app_label))
    if plan:
        names = ", ".join(migration.name for migration, _ in plan)
        yield ERROR, f"Not applied: {names}. Run `manage.py migrate --database {connection.alias}`."
    else:
        yield OK, "Every migration is applied."


def ids(connection: BaseDatabaseWrapper) -> Iterator[Verdict]:
    machines, prefix = MachineRecord.objects.using(connection.alias), PREFIX + secrets.token_hex(8)
    with transaction.atomic(using=connection.alias):
        merged = [difference for difference, end in IDS.items() if not machines._add(prefix + end, {})]
        transaction.set_rollback(True, using=connection.alias)
    if merged:
        yield (
            ERROR,
            f"Ids that differ by {', '.join(merged)} are one machine here: the collation of the id column is not that"
            " of the migrations. Change it back, to a binary one.",
        )
    else:
        yield OK, "Ids are compared exactly: case, accents, trailing spaces, emoji."


def _row(connection: BaseDatabaseWrapper, text: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(text, ())
        return cursor.fetchone()


def _settings(connection: BaseDatabaseWrapper) -> dict[str, str]:
    with connection.cursor() as cursor:
        cursor.execute(sql.SESSION[connection.vendor])
        return dict(cursor.fetchall())


Look = Callable[[BaseDatabaseWrapper], Iterator[Verdict]]
FIRST: dict[str, Look] = {"connection": answers, "clock": clock}
OF_VENDOR: dict[str, dict[str, Look]] = {
    "postgresql": {"isolation": isolation, "server": writable, "pooler": pooler},
    "mysql": {"time zone": time_zone, "isolation": isolation, "server": writable},
    "sqlite": {"journal": journal},
}
LAST: dict[str, Look] = {"routing": routing, "migrations": migrations, "ids": ids}
