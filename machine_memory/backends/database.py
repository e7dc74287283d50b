"""Memory in a table of a Django database."""

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import fields
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from django.core.checks import CheckMessage
from django.db import DEFAULT_DB_ALIAS, Error, OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import F
from django.utils.connection import ConnectionDoesNotExist

from machine_memory import clock, contention, validation
from machine_memory.backends.base import BaseMachineMemory
from machine_memory.backends.primitives import Contended, UnknownGrant, refusal, reply_lost
from machine_memory.exceptions import InvalidConfiguration, WriteError
from machine_memory.problems import problem
from machine_memory.records import Change, Grant, Joined, LockInfo, PurgeResult, Record, Retention
from machine_memory.transactions import JoinedTransaction, in_transaction, is_of_a_test, refuse_in_transaction
from machine_memory.validation import quoted

if TYPE_CHECKING:
    from machine_memory.lease import Lease
    from machine_memory.models import MachineQuerySet
    from machine_memory.statements import MachineStatements

RECORD_COLUMNS = [field.name for field in fields(Record)]
LOCK_INFO_COLUMNS = {
    "owner": F("lease_owner"),
    "locked_at": F("lease_acquired_at"),
    "expires_at": F("lease_expires_at"),
}
READ_COMMITTED = "read committed"
"""The isolation that Django asks MySQL and MariaDB for, unless its OPTIONS say otherwise."""


class DatabaseMachineMemory(BaseMachineMemory):
    """Keep machines in the database ``using``, one row each; everything is read from and written to that alias.

    ``one_statement=False``: take every step in the form of the ORM, as where the database has no other.
    """

    backend = "database"
    failures = (Error,)

    def __init__(self, *, using: str = DEFAULT_DB_ALIAS, one_statement: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self.using = using
        self.one_statement = validation.option(one_statement, "one_statement", bool)

    def _read(self, id: str) -> object:
        return self._steps(self._mend_connection()).state(id)

    def _record(self, id: str) -> Record | None:
        columns = self._machines.written().filter(pk=id).values(*RECORD_COLUMNS).first()
        return Record(**self._in_utc(columns)) if columns else None

    def _write(self, change: Change) -> int:
        connection = self._mend_connection()
        steps, session = self._steps(connection), connection.connection
        try:
            # A second round is for a machine that appeared or lost its lease between the statements of the first.
            for _ in range(2):
                version = steps.write(change)
                if version is not None:
                    return version
                if change.token is None and not change.expected_version and steps.write_first(change):
                    return 1
                _refuse_unless_open(steps, change.id, change.token, change.expected_version)
        except Error as failure:
            if in_transaction(connection):
                raise  # What becomes of it is decided with the caller's transaction.
            if _is_lost(session, connection):
                raise reply_lost("write", change.id) from failure
            if contention.is_contention(failure):
                _refuse_unless_open(steps, change.id, change.token, change.expected_version)
            raise
        raise WriteError(f"{quoted(change.id)} kept changing while it was written. Nothing was changed. Lock it first.")

    def _acquire(self, id: str, *, token: str, owner: str, ttl: float, trace: str | None) -> Grant | None:
        connection = self._mend_connection()
        steps, session = self._steps(connection), connection.connection
        refuse_in_transaction(connection, "Locking", id)
        try:
            return steps.acquire(id, token=token, owner=owner, ttl=ttl, trace=trace)
        except Error as failure:
            if contention.is_contention(failure):
                what = "The database is busy with" if connection.vendor == "sqlite" else f"{quoted(id)} is in use by"
                raise Contended(f"{what} another transaction.") from failure
            if not _is_lost(session, connection):
                raise
            grant = self._claim(id, token)
            if grant is None:
                raise UnknownGrant(f"The store failed to lock {quoted(id)} ({type(failure).__name__}).") from failure
            return grant

    def _claim(self, id: str, token: str) -> Grant | None:
        """Find the lease that was granted with a reply that never came."""
        try:
            return self._steps(self._mend_connection()).granted(id, token=token)
        except Error:
            return None  # The store is down, as the caller is about to be told.

    def _holder_trace(self, id: str) -> str | None:
        trace: str | None = self._machines.live().filter(pk=id).values_list("lease_trace", flat=True).first()
        return trace

    def _holder(self, id: str) -> LockInfo | None:
        columns = self._machines.filter(pk=id).live().values("id", "fence", **LOCK_INFO_COLUMNS).first()
        return LockInfo(**self._in_utc(dict(columns))) if columns else None

    def _renew(self, id: str, *, token: str, ttl: float) -> bool:
        connection = self._mend_connection()
        refuse_in_transaction(connection, "Renewing the lease of", id)
        return self._steps(connection).renew(id, token=token, ttl=ttl)

    def _release(self, id: str, *, token: str | None) -> bool:
        steps = self._steps(self._mend_connection())
        if token is not None and steps.release(id, token=token):
            return True
        live_token, _ = steps.standing(id) or (None, 0)
        return live_token is None

    def _renew_each(self, leases: "Collection[Lease]") -> tuple[set[str], set[str]]:
        connection, machines = self._mend_connection(), self._machines
        ids: dict[float, dict[str, str]] = defaultdict(dict)
        for lease in leases:
            ids[lease.ttl][lease._token] = lease.id
        renewed: set[str] = set()
        over: set[str] = set()
        for ttl, of_this_ttl in ids.items():
            for some in _batches(of_this_ttl, self.batch):
                try:
                    with contention.passing_over(connection):
                        done = self._steps(connection).renew_each(some, ttl=ttl)
                except OperationalError as error:
                    if not contention.is_contention(error):
                        raise
                    continue
                renewed |= done
                if rest := some.keys() - done:
                    over |= rest - set(machines.of(some).live().values_list("lease_token", flat=True))
        return renewed, over

    def _release_each(self, leases: "Collection[Lease]") -> set[str]:
        connection, machines = self._mend_connection(), self._machines
        over: set[str] = set()
        for some in _batches({lease._token: lease.id for lease in leases}, self.batch):
            try:
                with contention.passing_over(connection):
                    machines.release_each(some)
            except OperationalError as error:
                if not contention.is_contention(error):
                    raise
                continue
            over |= some.keys() - set(machines.of(some).values_list("lease_token", flat=True))
        return over

    def _force_release(self, id: str, *, fence: int | None) -> bool:
        return self._machines.force_release(id, fence=fence)

    def _remove(self, id: str, *, token: str | None) -> None:
        machines, connection = self._machines, self._connection
        session = connection.connection
        try:
            if not machines.remove(id, token=token) and machines.filter(pk=id).exists():
                _refuse_unless_open(machines, id, token, None)
        except Error as failure:
            if not in_transaction(connection) and _is_lost(session, connection):
                raise reply_lost("cleanup", id) from failure
            raise

    def _held_locks(self, after: str) -> list[LockInfo]:
        leases = self._machines.held().filter(pk__gt=after).order_by("pk").values("id", "fence", **LOCK_INFO_COLUMNS)
        return [LockInfo(**self._in_utc(dict(columns))) for columns in leases[: self.batch]]

    def _purge_locks(self, *, older_than: float, batch_size: int, dry_run: bool) -> Iterator[PurgeResult]:
        from machine_memory import purge  # noqa: PLC0415  # As the models.

        if dry_run:
            yield purge.count_expired(self._machines, older_than=older_than)
        else:
            yield from purge.end_expired(self._machines, older_than=older_than, batch_size=batch_size)

    def _purge_machines(self, retention: Retention, *, batch_size: int, dry_run: bool) -> Iterator[PurgeResult]:
        from machine_memory import purge  # noqa: PLC0415

        yield from purge.delete_retired(self._machines, retention, batch_size=batch_size, dry_run=dry_run)

    def _children(self, id: str) -> list[str]:
        return list(self._machines.children_of(id).order_by("pk").values_list("pk", flat=True))

    def _tree(self, root: str) -> list[str]:
        return list(self._machines.tree_of(root).order_by("pk").values_list("pk", flat=True))

    def check(self, *, deploy: bool) -> Iterator[CheckMessage]:
        """Yield what in the settings of the database does not go with leases; how it is run is the doctor's to say."""
        if deploy:
            return
        connection = self._connection
        settings = connection.settings_dict
        if not settings["AUTOCOMMIT"]:
            yield problem("E201", using=self.using)
        if settings["ATOMIC_REQUESTS"]:
            yield problem("W201", using=self.using)
        mode = str(settings["OPTIONS"].get("transaction_mode")).upper()
        if connection.vendor == "sqlite" and mode not in ("IMMEDIATE", "EXCLUSIVE"):
            yield problem("W202", using=self.using)
        level = settings["OPTIONS"].get("isolation_level", READ_COMMITTED)
        if connection.vendor == "mysql" and str(level).lower() != READ_COMMITTED:
            yield problem("W203", using=self.using, level=quoted(level))

    def _may_read_again(self, failure: BaseException) -> bool:
        # A transaction that has seen an error answers nothing more: only its owner can start it anew.
        return isinstance(failure, Error) and contention.is_transient(failure) and not self._in_transaction()

    def _in_transaction(self) -> bool:
        return in_transaction(self._connection)

    def _joined(self, latest: Joined | None) -> Joined | None:
        connection = self._connection
        # Without autocommit nobody is told of a commit, nor in a TestCase, whose transaction is to go unnoticed.
        if not connection.in_atomic_block or is_of_a_test(connection):
            return None
        if isinstance(latest, JoinedTransaction) and latest.is_of(connection):
            return latest
        return JoinedTransaction(connection)

    def _start_afresh(self) -> None:
        connection = self._connection
        if connection.in_atomic_block:
            connection.needs_rollback = True
        elif not in_transaction(connection):
            connection.close()

    def _close(self) -> None:
        self._connection.close()

    @property
    def system(self) -> str:
        """Return OpenTelemetry's name of the database; MariaDB is told from MySQL once it has been asked anything."""
        known = vars(self._connection)
        return "mariadb" if known.get("mysql_is_mariadb") else self._connection.vendor

    @property
    def _machines(self) -> "MachineQuerySet":
        # Models need the app registry, a memory does not.
        from machine_memory.models import MachineRecord  # noqa: PLC0415

        self._mend_connection()
        return MachineRecord.objects.using(self.using)

    def _steps(self, connection: BaseDatabaseWrapper) -> "MachineQuerySet | MachineStatements":
        """Return the steps that are taken most, in the form that the database has for them."""
        from machine_memory.statements import statements  # noqa: PLC0415  # As above.

        return (statements(connection) if self.one_statement else None) or self._machines

    def _mend_connection(self) -> BaseDatabaseWrapper:
        """Return the connection of this thread, opened; one that has had an error and is broken is closed before."""
        from machine_memory import models  # noqa: F401, PLC0415  # Says what is missing, before anything is asked.

        connection = self._connection
        # A healthy one stays, also where CONN_MAX_AGE is 0: opening one costs more than the whole cycle.
        if connection.errors_occurred and connection.connection and not in_transaction(connection):
            if not connection.is_usable():
                connection.close()
            connection.errors_occurred = False
        try:
            connection.close_if_health_check_failed()
            connection.ensure_connection()
        except Error:
            raise
        except BaseException:
            connection.close()  # Half open it would take statements, and commit none.
            raise
        return connection

    @property
    def _connection(self) -> BaseDatabaseWrapper:
        try:
            return connections[self.using]
        except ConnectionDoesNotExist as error:
            known = ", ".join(sorted(connections))
            raise InvalidConfiguration(f"{quoted(self.using)} is not in DATABASES ({known}): see `using`.") from error

    def _in_utc(self, columns: dict[str, Any]) -> dict[str, Any]:
        times = {name: value for name, value in columns.items() if isinstance(value, datetime)}
        return columns | {name: clock.as_utc(value, self._connection) for name, value in times.items()}


def _batches(ids: dict[str, str], size: int) -> Iterator[dict[str, str]]:
    rest = iter(ids.items())
    while some := dict(islice(rest, size)):
        yield some


def _is_lost(session: object, connection: BaseDatabaseWrapper) -> bool:
    # After an error at the end of a transaction Django may have opened another one already.
    return connection.connection is not session or not connection.is_usable()


def _refuse_unless_open(
    steps: "MachineQuerySet | MachineStatements", id: str, token: str | None, expected_version: int | None
) -> None:
    live_token, version = steps.standing(id) or (None, 0)
    reason = refusal(id, token=token, live_token=live_token, version=version, expected_version=expected_version)
    if reason is not None:
        raise reason
