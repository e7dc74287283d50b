"""The store in a table of a Django database: one row each, and one step for each verb."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields
from datetime import datetime
from functools import cached_property
from typing import Any

from django.core.checks import CheckMessage
from django.db import Error, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import F
from django.utils.connection import ConnectionDoesNotExist

from machine_memory.backends.database import (
    checks,
    claims,
    clock,
    contention,
    copies,
    doctor,
    keeping,
    purge,
    sessions,
    sql,
    transactions,
)
from machine_memory.backends.database.queries import MachineQuerySet, machine_model
from machine_memory.backends.database.statements import MachineStatements, statements
from machine_memory.backends.database.transactions import JoinedTransaction, in_transaction
from machine_memory.core.records import (
    Change,
    Claim,
    Claimed,
    Criteria,
    Grant,
    Joined,
    LeaseRef,
    LockInfo,
    PurgeResult,
    Record,
    Resumption,
    Retention,
    Snapshot,
    Summary,
)
from machine_memory.core.store import Contended, Probe, Store, UnknownGrant, refusal, reply_lost
from machine_memory.core.transactions import is_of_a_test
from machine_memory.core.validation import quoted
from machine_memory.exceptions import InvalidConfiguration, WriteError

RECORD_COLUMNS, SUMMARY_COLUMNS = ([field.name for field in fields(kind)] for kind in (Record, Summary))
LOCK_COLUMNS = {"owner": F("lease_owner"), "locked_at": F("lease_acquired_at"), "expires_at": F("lease_expires_at")}


class DatabaseStore(Store):
    """Machines in the database of an alias."""

    name = "database"
    failures = (Error,)

    def __init__(self, database: str, *, one_statement: bool) -> None:
        self._using = self.database = database
        self.place = f"in database {quoted(database)}"
        self.one_statement = one_statement

    @property
    def host(self) -> str:
        settings = self._connection.settings_dict
        return ":".join(str(settings[name]) for name in ("HOST", "PORT") if settings[name])

    def read(self, id: str) -> object:
        return self._steps(self._mend_connection()).state(id)

    def record(self, id: str) -> Record | None:
        columns = self._machines.written().filter(pk=id).values(*RECORD_COLUMNS).first()
        return Record(**self._in_utc(columns)) if columns else None

    def write(self, change: Change) -> int:
        connection = self._mend_connection()
        steps, session = self._steps(connection), connection.connection
        try:
            # A second round is for a machine that appeared or lost its lease between the statements of the first.
            for _ in range(2):
                version = steps.write(change)
                if version is None and change.token is None and not change.expected_version:
                    version = 1 if steps.write_first(change) else None
                if version is not None:
                    sessions.refuse_unreplicated()
                    return version
                _refuse_unless_open(steps, change.id, change.token, change.expected_version)
        except Error as failure:
            if in_transaction(connection):
                raise  # What becomes of it is decided with the caller's transaction.
            if sessions.is_lost(session, connection, failure):
                raise reply_lost("write", change.id) from failure
            if contention.is_contention(failure):
                _refuse_unless_open(steps, change.id, change.token, change.expected_version)
                if connection.vendor != "sqlite":  # Where it is the whole database that is in use.
                    what = f"{quoted(change.id)} is in use by another transaction. Nothing was changed."
                    raise WriteError(what) from failure
            raise
        raise WriteError(f"{quoted(change.id)} kept changing while it was written. Nothing was changed. Lock it first.")

    def write_each(self, changes: Collection[Change]) -> set[str]:
        if len(changes) == 1:
            return set()
        connection = self._mend_connection()
        steps, session = self._steps(connection), connection.connection
        try:
            written = steps.write_each(changes)
            sessions.refuse_unreplicated()
        except Error as failure:
            if not in_transaction(connection):
                if sessions.is_lost(session, connection, failure):
                    raise reply_lost("write", next(iter(changes)).id) from failure
                if contention.is_contention(failure):
                    return set()  # Each is decided alone.
            raise
        return written

    def acquire(self, id: str, *, token: str, owner: str, ttl: float, trace: str | None) -> Grant | None:
        connection = self._mend_connection()
        steps, session = self._steps(connection), connection.connection
        transactions.refuse(connection, "Locking", id)
        try:
            return steps.acquire(id, token=token, owner=owner, ttl=ttl, trace=trace)
        except Error as failure:
            if contention.is_contention(failure):
                what = "The database is busy with" if connection.vendor == "sqlite" else f"{quoted(id)} is in use by"
                raise Contended(f"{what} another transaction.") from failure
            if sessions.is_lost(session, connection, failure):
                raise UnknownGrant(id, failure) from failure
            raise

    def acquire_each(self, asked: Mapping[str, str], *, owner: str, ttl: float, trace: str | None) -> dict[str, Grant]:
        connection = self._mend_connection()
        steps, session, first = self._steps(connection), connection.connection, next(iter(asked.values()))
        transactions.refuse(connection, "Locking", first)
        if len(asked) == 1:
            return super().acquire_each(asked, owner=owner, ttl=ttl, trace=trace)
        try:
            return steps.acquire_each(asked, owner=owner, ttl=ttl, trace=trace)
        except Error as failure:
            if contention.is_contention(failure):
                return self._machines.acquire_each(asked, owner=owner, ttl=ttl, trace=trace)
            if sessions.is_lost(session, connection, failure):
                raise UnknownGrant(first, failure, may_ask=False) from failure
            raise

    def claim(self, claim: Claim, pending: dict[str, str]) -> list[Claimed]:
        connection = self._mend_connection()
        steps, session = self._steps(connection), connection.connection
        transactions.refuse(connection, "Claiming", "machines")
        try:
            if isinstance(steps, MachineStatements):
                return steps.claim(claim, pending)
            return claims.in_transaction(self._machines, claim, pending)
        except Error as failure:
            if contention.is_contention(failure):
                return []  # Others are at work on them: a claim waits for nobody.
            if not sessions.is_lost(session, connection, failure):
                pending.clear()
            raise

    def granted(self, id: str, *, token: str) -> Grant | None:
        return self._steps(self._mend_connection()).granted(id, token=token)

    def holder_trace(self, id: str) -> str | None:
        trace: str | None = self._machines.live().filter(pk=id).values_list("lease_trace", flat=True).first()
        return trace

    def holder(self, id: str) -> LockInfo | None:
        columns = self._machines.filter(pk=id).live().values("id", "fence", **LOCK_COLUMNS).first()
        return LockInfo(**self._in_utc(dict(columns))) if columns else None

    def renew(self, id: str, *, token: str, ttl: float) -> bool:
        connection = self._mend_connection()
        transactions.refuse(connection, "Renewing the lease of", id)
        return self._steps(connection).renew(id, token=token, ttl=ttl)

    def resume(self, id: str, *, token: str, ttl: float | None) -> Resumption | None:
        connection = self._mend_connection()
        if ttl is not None:
            transactions.refuse(connection, "Extending the lease of", id)
        return self._steps(connection).resume(id, token=token, ttl=ttl)

    def release(self, id: str, *, token: str | None) -> bool:
        steps = self._steps(self._mend_connection())
        if token is not None and steps.release(id, token=token):
            return True
        live_token, _ = steps.standing(id) or (None, 0)
        return live_token is None

    def renew_each(self, leases: Collection[LeaseRef]) -> tuple[set[str], set[str]]:
        machines = self._machines
        return keeping.renew(machines, self._steps(self._connection).renew_each, leases, self.batch)

    def release_each(self, leases: Collection[LeaseRef]) -> set[str]:
        return keeping.release(self._machines, leases, self.batch)

    def force_release(self, id: str, *, fence: int | None) -> bool:
        return self._machines.force_release(id, fence=fence)

    def remove(self, id: str, *, token: str | None) -> None:
        machines, connection = self._machines, self._connection
        session = connection.connection
        try:
            if not machines.remove(id, token=token) and machines.filter(pk=id).exists():
                _refuse_unless_open(machines, id, token, None)
            sessions.refuse_unreplicated()
        except Error as failure:
            if not in_transaction(connection) and sessions.is_lost(session, connection, failure):
                raise reply_lost("cleanup", id) from failure
            raise

    def held_locks(self, after: str) -> list[LockInfo]:
        leases = self._machines.held().filter(pk__gt=after).order_by("pk").values("id", "fence", **LOCK_COLUMNS)
        return [LockInfo(**self._in_utc(dict(columns))) for columns in leases[: self.batch]]

    def find(self, criteria: Criteria, after: str, limit: int) -> list[Summary]:
        machines = self._machines.matching(criteria).filter(pk__gt=after).order_by("pk").values(*SUMMARY_COLUMNS)
        return [Summary(**self._in_utc(dict(columns))) for columns in machines[:limit]]

    def purge_locks(self, *, older_than: float, batch_size: int, dry_run: bool) -> Iterator[PurgeResult]:
        if dry_run:
            yield purge.count_expired(self._machines, older_than=older_than)
        else:
            yield from purge.end_expired(self._machines, older_than=older_than, batch_size=batch_size)

    def purge_machines(self, retention: Retention, *, batch_size: int, dry_run: bool) -> Iterator[PurgeResult]:
        yield from purge.delete_retired(self._machines, retention, batch_size=batch_size, dry_run=dry_run)

    def children(self, id: str) -> list[str]:
        return list(self._machines.children_of(id).order_by("pk").values_list("pk", flat=True))

    def tree(self, root: str) -> list[str]:
        return list(self._machines.tree_of(root).order_by("pk").values_list("pk", flat=True))

    def export(self, ids: Collection[str]) -> list[Snapshot]:
        return [Snapshot(**self._in_utc(columns)) for columns in copies.export(self._machines, ids)]

    def adopt(self, machines: Collection[Snapshot]) -> set[str]:
        return copies.adopt(self._machines, machines)

    def check(self, *, deploy: bool) -> Iterator[CheckMessage]:
        """Yield what in the settings of the database does not go with leases; how it is run is the doctor's to say."""
        yield from (checks.locking if deploy else checks.settings)(self._connection)

    def probes(self) -> Iterator[tuple[str, Probe]]:
        return doctor.probes(self._connection, self._model)

    def may_read_again(self, failure: BaseException) -> bool:
        # A transaction that has seen an error answers nothing more: only its owner can start it anew.
        return isinstance(failure, Error) and contention.is_transient(failure) and not self.in_transaction()

    def in_transaction(self) -> bool:
        return in_transaction(self._connection)

    def joined(self, latest: Joined | None) -> Joined | None:
        connection = self._connection
        # Without autocommit nobody is told of a commit, nor in a TestCase, whose transaction is to go unnoticed.
        if not connection.in_atomic_block or is_of_a_test(connection):
            return None
        if isinstance(latest, JoinedTransaction) and latest.is_of(connection):
            return latest
        return JoinedTransaction(connection)

    def note(self, failure: Exception) -> None:
        sessions.leave_idle(self._connection, failure)

    def start_afresh(self) -> None:
        connection = self._connection
        transactions.undo(connection)
        if connection.in_atomic_block:
            connection.needs_rollback = True
        elif not in_transaction(connection):
            connection.close()

    def close(self) -> None:
        self._connection.close()

    @property
    def system(self) -> str:
        """Return OpenTelemetry's name of the database; MariaDB is told from MySQL once it has been asked anything."""
        known = vars(self._connection)
        return "mariadb" if known.get("mysql_is_mariadb") else self._connection.vendor

    @property
    def forks(self) -> bool:  # type: ignore[override]
        # A child would inherit what SQLite knows of its locks in this process, those of a statement under way included.
        return self._connection.vendor != "sqlite"

    @cached_property
    def _model(self) -> Any:
        return machine_model()  # It needs the app registry, a store does not.

    @property
    def _machines(self) -> MachineQuerySet:
        machines: MachineQuerySet = self._model.objects.using(self._using)
        self._mend_connection()
        return machines

    def _steps(self, connection: BaseDatabaseWrapper) -> MachineQuerySet | MachineStatements:
        """Return the steps that are taken most, in the form that the database has for them."""
        return (statements(connection, self._model) if self.one_statement else None) or self._machines

    def _mend_connection(self) -> BaseDatabaseWrapper:
        """Return the connection of this thread, opened."""
        self._model  # noqa: B018  # Says what is missing, before anything is asked.
        connection = self._connection
        sessions.mend(connection)
        return connection

    @property
    def _connection(self) -> BaseDatabaseWrapper:
        try:
            connection = connections[self._using]
        except ConnectionDoesNotExist as error:
            known = ", ".join(sorted(connections))
            raise InvalidConfiguration(f"{quoted(self._using)} is not in DATABASES ({known}): see `using`.") from error
        if connection.vendor not in sql.NOW:
            raise checks.unknown(connection)
        return connection

    def _in_utc(self, columns: dict[str, Any]) -> dict[str, Any]:
        times = {name: value for name, value in columns.items() if isinstance(value, datetime)}
        return columns | {name: clock.as_utc(value, self._connection) for name, value in times.items()}


def _refuse_unless_open(
    steps: MachineQuerySet | MachineStatements, id: str, token: str | None, expected_version: int | None
) -> None:
    live_token, version = steps.standing(id) or (None, 0)
    reason = refusal(id, token=token, live_token=live_token, version=version, expected_version=expected_version)
    if reason is not None:
        raise reason
