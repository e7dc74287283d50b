"""What the doctor asks a database."""

import secrets
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import partial
from typing import Any

from django.db import Error, router, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.executor import MigrationExecutor
from django.db.models import Model

from machine_memory.backends.database import checks, sql
from machine_memory.backends.database.clock import as_utc
from machine_memory.core.store import Probe, Verdict
from machine_memory.core.validation import quoted
from machine_memory.doctor import findings
from machine_memory.doctor.findings import ERROR, OK, PREFIX, WARNING

IDS = {
    "the first": "a",
    "case": "A",
    "a trailing space": "a ",
    "an accent": "á",
    "having an emoji": "😀",
    "the emoji": "😁",
}
"""Ends of ids, and by what each differs from one before it."""


def probes(connection: BaseDatabaseWrapper, model: type[Model]) -> Iterator[tuple[str, Probe]]:
    for check, probe in {"connection": answers, "clock": clock, **OF_VENDOR[connection.vendor]}.items():
        yield check, partial(probe, connection)
    for check, look in {"routing": routing, "migrations": migrations, "ids": ids}.items():
        yield check, partial(look, connection, model)


def answers(connection: BaseDatabaseWrapper) -> Iterator[Verdict]:
    try:
        connection.ensure_connection()
        version = ".".join(map(str, connection.get_database_version()))
    except Error as failure:
        given = connection.settings_dict
        secrets = [given["PASSWORD"], *(value for name, value in given["OPTIONS"].items() if "pass" in name)]
        raise findings.no_answer(_address(given), failure, *secrets) from failure
    yield OK, f"{connection.display_name} {version} answers."


def _address(given: dict[str, Any]) -> str:
    place = f" at {':'.join(filter(None, (given['HOST'], str(given['PORT']))))}" if given["HOST"] else ""
    return f"The database {quoted(str(given['NAME']))}{place}"


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
            f"Transactions are {level}: steps that meet are refused or deadlock where one would wait for the other, and"
            " inside a transaction of yours unlock and cleanup do not see what others did since its first query."
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
    on = sorted(name for name, value in settings if name.endswith("read_only") and value.lower() not in sql.NOT_SO)
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


def timeout(connection: BaseDatabaseWrapper) -> Iterator[Verdict]:
    host, options = connection.settings_dict["HOST"], connection.settings_dict["OPTIONS"]
    session: Any = connection.connection
    if connection.vendor == "postgresql" and hasattr(session, "info"):
        info = session.info
        # Also those of a service, and of the environment; psycopg 2 has them by another name.
        options = {**options, **(info.get_parameters() if hasattr(info, "get_parameters") else info.dsn_parameters)}
    if not host or host.startswith("/"):
        yield OK, "The server is on this host."
    elif "connect_timeout" in options:
        yield OK, f"A new connection takes {options['connect_timeout']} s at most."
    else:
        yield (
            WARNING,
            "A new connection to a host that does not answer takes minutes: set connect_timeout in the OPTIONS of"
            f" {connection.alias!r}, in seconds.",
        )


def cluster(connection: BaseDatabaseWrapper) -> Iterator[Verdict]:
    known = dict(_rows(connection, sql.OF_CLUSTER))
    if known.get("wsrep_on") != "ON":
        yield OK, "The server is no node of a cluster of Galera."
        return
    status = dict(_rows(connection, sql.CLUSTER))
    size, waits, repeats = status["wsrep_cluster_size"], known["wsrep_sync_wait"], known["wsrep_retry_autocommit"]
    node = f"The server is one of {size} nodes of Galera (wsrep_retry_autocommit = {repeats}, which no lock goes by)"
    if int(waits) & 1:
        yield OK, f"{node}, and waits for what was written at the others (wsrep_sync_wait = {waits})."
    else:
        yield (
            WARNING,
            f"{node}, and may not know yet what was written at another one: where connections go to several, set"
            f' "init_command": "SET SESSION wsrep_sync_wait = 7" in the OPTIONS of {connection.alias!r}.',
        )


def replicas(connection: BaseDatabaseWrapper) -> Iterator[Verdict]:
    states = [state for (state,) in _rows(connection, sql.REPLICAS)]
    ((waits,),) = _rows(connection, sql.WAITS_FOR_REPLICAS)
    awaited = sum(state in ("sync", "quorum", "potential") for state in states)
    if waits == "off":
        yield WARNING, "synchronous_commit is off: where the server fails, what was acknowledged last is gone."
    elif not states:
        yield OK, "No replica follows this server."
    elif None in states:
        yield OK, f"{len(states)} follow this server; whether it waits for them, its user may not know (pg_monitor)."
    elif not awaited or waits == "local":
        yield (
            WARNING,
            f"{len(states)} follow this server, which waits for none: where one takes over, what was acknowledged last"
            " may be gone, and a lease that was forced may live again. Set synchronous_standby_names, if that is too"
            " much, and synchronous_commit = on.",
        )
    else:
        yield OK, f"{len(states)} follow this server, which waits for those that synchronous_standby_names says."


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


def locking(connection: BaseDatabaseWrapper) -> list[Verdict]:
    return findings.messages(checks.locking(connection), "Transactions begin as writers.")


def routing(connection: BaseDatabaseWrapper, model: type[Model]) -> Iterator[Verdict]:
    own = f"This memory reads from and writes to {connection.alias!r} alone"
    reads, writes = router.db_for_read(model), router.db_for_write(model)
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


def migrations(connection: BaseDatabaseWrapper, model: type[Model]) -> Iterator[Verdict]:
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes(model._meta.app_label))
    if plan:
        names = ", ".join(migration.name for migration, _ in plan)
        yield ERROR, f"Not applied: {names}. Run `manage.py migrate --database {connection.alias}`."
    elif model._meta.db_table not in connection.introspection.table_names():
        label = model._meta.app_label
        yield (
            ERROR,
            f"Every migration counts as applied, and there is no table {model._meta.db_table}: a router kept it out"
            f" (allow_migrate). Once that lets it in, run `manage.py migrate {label} zero --fake --database"
            f" {connection.alias}`, and `manage.py migrate {label} --database {connection.alias}`.",
        )
    else:
        yield OK, "Every migration is applied."


def ids(connection: BaseDatabaseWrapper, model: type[Model]) -> Iterator[Verdict]:
    machines: Any = model._default_manager.using(connection.alias)
    prefix = PREFIX + secrets.token_hex(8)
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


def _rows(connection: BaseDatabaseWrapper, text: str) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(text)
        return list(cursor.fetchall())


def _settings(connection: BaseDatabaseWrapper) -> dict[str, str]:
    return dict(_rows(connection, sql.SESSION[connection.vendor]))


Look = Callable[[BaseDatabaseWrapper], Iterable[Verdict]]
OF_VENDOR: dict[str, dict[str, Look]] = {
    "postgresql": {
        "timeout": timeout,
        "isolation": isolation,
        "server": writable,
        "replicas": replicas,
        "pooler": pooler,
    },
    "mysql": {
        "timeout": timeout,
        "time zone": time_zone,
        "isolation": isolation,
        "server": writable,
        "cluster": cluster,
    },
    "sqlite": {"journal": journal, "locking": locking},
}
