"""What holds for databases alone: transactions, connections, lost replies, clocks, and what SQL is made of."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from sqlite3 import SQLITE_LIMIT_VARIABLE_NUMBER
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from django.core.management import call_command
from django.db import DatabaseError, OperationalError, connections, transaction
from django.db.models import F
from django.test import TestCase, override_settings
from django.utils import timezone

from machine_memory import (
    CommitRefused,
    CorruptRecord,
    DatabaseMachineMemory,
    InvalidConfiguration,
    LockDenied,
    LockError,
    LockInTransaction,
    LockLost,
    LockNotHeld,
    Metadata,
    ReadError,
    StoreError,
    UnknownOutcome,
    VersionConflict,
    WriteError,
)
from machine_memory.backends.database import batches, purge, sessions, sql, statements
from machine_memory.backends.database.clock import StoreTime
from machine_memory.backends.database.contention import is_contention, is_transient, is_unknown
from machine_memory.core.contexts import held
from machine_memory.models import MachineRecord
from tests.conftest import Worker, databases, in_thread
from tests.database.store import DatabaseStore, set_up
from tests.proxy import proxied

TOKEN = "0123456789abcdef" * 2
servers = pytest.mark.parametrize("database", databases("postgresql", "mariadb"), indirect=True)
postgresql = pytest.mark.parametrize("database", databases("postgresql"), indirect=True)
mariadb = pytest.mark.parametrize("database", databases("mariadb"), indirect=True)
sqlite = pytest.mark.parametrize("database", databases("sqlite"), indirect=True)


def execute(alias: str, query: str, *params: Any) -> Any:
    with connections[alias].cursor() as cursor:
        cursor.execute(query, params)
        return cursor.fetchall() if cursor.description else None


@contextlib.contextmanager
def attempts(alias: str) -> Iterator[list[str]]:
    """Yield the statements that are sent within, whatever becomes of them."""
    sent: list[str] = []

    def note(execute: Any, query: str, *args: Any) -> Any:
        sent.append(query)
        return execute(query, *args)

    with connections[alias].execute_wrapper(note):
        yield sent


def end_session(alias: str) -> None:
    """Let the server end the session of this thread, from another one."""
    query = {"postgresql": "SELECT pg_backend_pid()", "mysql": "SELECT CONNECTION_ID()"}[connections[alias].vendor]
    ((session,),) = execute(alias, query)
    kill = {"postgresql": f"SELECT pg_terminate_backend({session}, 5000)", "mysql": f"KILL {session}"}
    in_thread(lambda: execute(alias, kill[connections[alias].vendor])).result()


@contextlib.contextmanager
def open_transaction(store: DatabaseStore, *, insert: str = "", update: str = "") -> Iterator[None]:
    """Keep a transaction of another session open that has touched a machine."""
    ready, done = threading.Event(), threading.Event()

    def keep_open() -> None:
        with transaction.atomic(using=store.alias):
            try:
                if insert:
                    store.rows._add(insert, {})
                store.rows.filter(pk=update).update(status="touched")
            finally:
                ready.set()
            done.wait(30)
            transaction.set_rollback(True, using=store.alias)

    with in_thread(keep_open):
        assert ready.wait(10)
        try:
            yield
        finally:
            done.set()


@contextlib.contextmanager
def within_a_second() -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < 1


class TestLockAnswersWithinASecond:
    def test_while_another_transaction_works_on_the_row(self, database: DatabaseStore) -> None:
        database.memory.write("a", {})
        with open_transaction(database, update="a"), within_a_second():
            assert database.memory.lock("a") is False
        assert database.memory.lock("a") is True

    def test_while_another_transaction_inserts_the_row(self, database: DatabaseStore) -> None:
        with open_transaction(database, insert="a"), within_a_second():
            assert database.memory.lock("a") is False
        assert database.memory.lock("a") is True

    @servers
    def test_other_ids_are_free_meanwhile(self, database: DatabaseStore) -> None:
        with open_transaction(database, insert="a"), within_a_second():
            assert database.memory.lock("b") is True

    def test_the_waits_of_the_session_are_as_before(self, database: DatabaseStore) -> None:
        query = {
            "sqlite": "PRAGMA busy_timeout",
            "postgresql": "SHOW lock_timeout",
            "mariadb": "SELECT @@innodb_lock_wait_timeout",
        }[database.name]
        before = execute(database.alias, query)
        with open_transaction(database, insert="a"):
            database.memory.lock("a")
        database.memory.lock("b")

        assert execute(database.alias, query) == before


class TestTransactions:
    def test_locking_inside_one_is_refused_with_the_ways_out(self, database: DatabaseStore) -> None:
        memory = database.memory
        with transaction.atomic(using=database.alias):
            with pytest.raises(LockInTransaction) as refused:
                memory.lock("a")
            with pytest.raises(LockInTransaction), memory.lease("a"):
                pass
        assert str(refused.value) == (
            f"Locking 'a' inside an open transaction of the database '{database.alias}' is refused: nobody else would"
            " see the lease before the commit, and a rollback would end it unnoticed. Lock outside of the transaction,"
            " exempt the view from ATOMIC_REQUESTS with `transaction.non_atomic_requests`, or give the memory a second"
            " alias of the same database as `using`."
        )
        assert database.count() == 0

    def test_renewing_inside_one_is_refused(self, database: DatabaseStore) -> None:
        with database.memory.lease("a") as lease:
            with transaction.atomic(using=database.alias), pytest.raises(LockInTransaction, match="Renewing the lease"):
                lease.renew()
            lease.renew()

    def test_detaching_inside_one_is_refused_and_the_lease_stays(self, database: DatabaseStore) -> None:
        with database.memory.lease("a") as lease:
            with transaction.atomic(using=database.alias):
                for _ in range(2):
                    with pytest.raises(LockInTransaction, match="The lease of 'a' is not detached inside an open"):
                        lease.detach()
                    lease.write({"n": 1})
            text = lease.detach()
        with database.memory.attach(text) as lease:
            assert lease.version == 2
            with pytest.raises(KeyError), transaction.atomic(using=database.alias):
                lease.write({"n": 2})
                raise KeyError
            assert lease.detach() == text

    def test_attaching_inside_one_is_refused_where_it_would_extend(self, database: DatabaseStore) -> None:
        with database.memory.lease("a") as lease:
            text = lease.detach()
        with transaction.atomic(using=database.alias):
            with (
                pytest.raises(LockInTransaction, match="Extending the lease of 'a' inside an open transaction"),
                database.memory.attach(text, ttl=60),
            ):
                pass
            with database.memory.attach(text) as lease:
                lease.commit({"n": 1})
        assert database.memory.read("a") == {"n": 1}
        assert database.lease_of("a") is None

    def test_locking_without_autocommit_is_refused(self, database: DatabaseStore) -> None:
        transaction.set_autocommit(False, using=database.alias)
        try:
            with pytest.raises(LockInTransaction):
                database.memory.lock("a")
        finally:
            transaction.rollback(using=database.alias)
            transaction.set_autocommit(True, using=database.alias)

    def test_a_write_joins_it(self, database: DatabaseStore) -> None:
        with database.memory.lease("a") as lease:
            with transaction.atomic(using=database.alias):
                lease.write({"n": 1})
                in_thread(lambda: self.assert_unseen(database)).result()
            assert database.memory.read("a") == {"n": 1}

    @staticmethod
    def assert_unseen(database: DatabaseStore) -> None:
        assert database.memory.read("a") is None

    def test_a_rollback_takes_the_write_with_it(self, database: DatabaseStore) -> None:
        database.memory.write("a", {"n": 1})
        with pytest.raises(ZeroDivisionError), transaction.atomic(using=database.alias):
            database.memory.write("a", {"n": 2})
            database.memory.write("b", {"n": 1})
            1 / 0  # noqa: B018
        assert database.memory.read("a") == {"n": 1}
        assert database.memory.read("b") is None

    def test_a_refused_write_leaves_it_usable(self, database: DatabaseStore) -> None:
        Worker(database.memory).lock("a")
        with transaction.atomic(using=database.alias):
            with pytest.raises(LockNotHeld):
                database.memory.write("a", {})
            with pytest.raises(VersionConflict):
                database.memory.write("b", {}, expected_version=3)
            database.memory.write("c", {"n": 1})
        assert database.memory.read("c") == {"n": 1}

    def test_a_commit_that_is_rolled_back_still_ends_with_the_block(self, database: DatabaseStore) -> None:
        memory, atomic = database.memory, transaction.atomic(using=database.alias)
        with pytest.raises(ZeroDivisionError), memory.lease("a") as lease, atomic:
            lease.commit({"n": 1})
            1 / 0  # noqa: B018
        assert database.memory.read("a") is None
        assert list(database.memory.held_locks()) == []

    def test_after_a_rollback_the_lease_goes_on_from_what_is_stored(self, database: DatabaseStore) -> None:
        atomic = transaction.atomic(using=database.alias)
        with database.memory.lease("a") as lease:
            lease.write({"n": 1})
            for step in (lease.write, lease.commit):
                with pytest.raises(ZeroDivisionError), atomic:
                    assert step({"n": 2}) == 2
                    1 / 0  # noqa: B018
            assert lease.write({"n": 3}) == 2
            with atomic:
                lease.commit({"n": 4})
            with pytest.raises(LockLost):
                lease.write({"n": 5})
        assert database.memory.read("a") == {"n": 4}

    @pytest.mark.parametrize("within", ["transaction", "savepoint"])
    def test_after_a_rollback_a_lease_shows_what_is_stored(self, database: DatabaseStore, within: str) -> None:
        outer = transaction.atomic(using=database.alias) if within == "savepoint" else contextlib.nullcontext()
        with database.memory.lease("a") as lease:
            lease.write({"n": 1})
            with outer:
                state = lease.data
                with pytest.raises(ZeroDivisionError), transaction.atomic(using=database.alias):
                    state["n"] = 2
                    lease.write(state)
                    assert (lease.data, lease.version) == ({"n": 2}, 2)
                    1 / 0  # noqa: B018
                assert (lease.data, lease.version) == ({"n": 1}, 1)
                lease.write({"n": 3})
            assert (lease.data, lease.version) == ({"n": 3}, 2)
        assert database.memory.read("a") == {"n": 3}

    @pytest.mark.parametrize("give_back", ["unlock", "cleanup", "commit", "release"])
    def test_what_was_given_back_is_held_again_after_a_rollback(
        self, database: DatabaseStore, give_back: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        memory = database.memory
        memory.lock("a")
        memory.write("a", {"n": 1})
        lease = held(memory, "a")
        assert lease
        steps: dict[str, Callable[[], Any]] = {
            "unlock": lambda: memory.unlock("a"),
            "cleanup": lambda: memory.cleanup("a"),
            "commit": lambda: lease.commit({"n": 2}),
            "release": lease.release,
        }
        with pytest.raises(ZeroDivisionError), transaction.atomic(using=database.alias):
            assert steps[give_back]()
            assert held(memory, "a") is None
            1 / 0  # noqa: B018
        assert held(memory, "a") is lease
        assert memory.write("a", {"n": 3}) == 2
        with transaction.atomic(using=database.alias):
            assert steps[give_back]()
        assert held(memory, "a") is None
        assert list(memory.held_locks()) == []
        assert Worker(memory).lock("a") is True

    def test_a_block_that_ends_within_one_is_given_back_also_after_a_rollback(self, database: DatabaseStore) -> None:
        block = database.memory.lease("a")
        lease = block.__enter__()
        with transaction.atomic(using=database.alias):
            lease.write({"n": 1})
            block.__exit__(None, None, None)
            transaction.set_rollback(True, using=database.alias)
        database.wait_until(lambda: not list(database.memory.held_locks()))
        assert database.memory.read("a") is None

    def test_without_autocommit_its_connection_is_left_alone(self, database: DatabaseStore) -> None:
        connection = connections[database.alias]
        transaction.set_autocommit(False, using=database.alias)
        try:
            session = connection.connection
            with pytest.raises(DatabaseError):
                execute(database.alias, "SELECT * FROM nowhere")
            with contextlib.suppress(ReadError):  # On PostgreSQL, where nothing more is answered.
                database.memory.read("a")
            assert connection.connection is session
            assert connection.get_autocommit() is False
        finally:
            transaction.rollback(using=database.alias)
            transaction.set_autocommit(True, using=database.alias)

    def test_a_second_alias_of_the_same_database_can_lock_within(self, database: DatabaseStore) -> None:
        if database.name == "sqlite":
            return self.assert_that_sqlite_has_one_writer(database)
        with proxied(database.alias) as (alias, _), transaction.atomic(using=database.alias):
            execute(database.alias, "SELECT 1")
            assert DatabaseMachineMemory(using=alias).lock("a") is True
            assert in_thread(lambda: database.memory.lock("a")).result() is False
        return None

    @staticmethod
    def assert_that_sqlite_has_one_writer(database: DatabaseStore) -> None:
        with transaction.atomic(using=database.alias):
            database.memory.write("b", {})
            assert in_thread(lambda: database.memory.lock("a")).result() is False


class TestInsideATestCase(TestCase):
    databases = {"default"}

    def test_its_own_transaction_does_not_count(self) -> None:
        memory = DatabaseMachineMemory()
        with memory.lease("a") as lease:
            lease.renew()
            text = lease.detach()
        with memory.attach(text, ttl=60) as lease:
            assert lease.commit({"n": 1}) == 1
        assert memory.lock("a") is True
        with transaction.atomic(), pytest.raises(LockInTransaction):
            memory.lock("b")


@pytest.fixture
def impatient(database: DatabaseStore) -> Iterator[None]:
    """Statements wait for a row in use for a second, should they."""
    waits = {"postgresql": "SET lock_timeout = '1s'", "mariadb": "SET SESSION innodb_lock_wait_timeout = 1"}
    execute(database.alias, waits[database.name])
    yield
    connections[database.alias].close()


@servers
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("machines", "some"), [(3, 2), (6, 2), (60, 50)])
class TestOneOfTheOthersIsInUse:
    """However many they are, and of whichever part of the table: each is found by its key."""

    @pytest.fixture
    def ids(self, database: DatabaseStore, machines: int, some: int) -> list[str]:
        ids = [f"m{number:02}" for number in range(machines)]
        with database.memory.leases(ids) as batch:
            batch.commit({id: {} for id in ids}, metadata=Metadata(status="done"))
        return ids[:some]

    @pytest.fixture
    def others(self, database: DatabaseStore, ids: list[str], machines: int) -> Iterator[None]:
        with open_transaction(database, update=f"m{machines - 1:02}"):
            yield

    def test_a_batch_is_committed(self, database: DatabaseStore, ids: list[str], others: None) -> None:
        with database.memory.leases(ids) as batch:
            assert batch.denied == []
            assert batch.write({id: {} for id in ids}) == dict.fromkeys(ids, 2)
            assert batch.commit({id: {} for id in ids}) == dict.fromkeys(ids, 3)

    def test_leases_are_renewed_and_given_back(self, database: DatabaseStore, ids: list[str], others: None) -> None:
        store = database.memory.store
        with database.memory.leases(ids) as batch:
            leases = [lease._ref for lease in batch]
            tokens = {token for _, token, _ in leases}
            assert store.renew_each(leases) == (tokens, set())
            assert store.release_each(leases) == tokens

    def test_leases_that_expired_are_ended(self, database: DatabaseStore, ids: list[str], others: None) -> None:
        worker = Worker(database.memory)
        for id in ids:
            assert worker.lock(id)
            database.expire(id)
        assert database.memory.purge_expired_locks().cleared == len(ids)

    def test_machines_are_purged(self, database: DatabaseStore, ids: list[str], others: None) -> None:
        for id in ids:
            database.age(id, 60)
        assert database.memory.purge_machines(status="done", idle=30).deleted == len(ids)

    def test_copies_are_taken_in(self, database: DatabaseStore, ids: list[str], others: None) -> None:
        copies = [replace(copy, version=7) for copy in database.memory.store.export(ids)]
        assert database.memory.store.adopt(copies) == set(ids)


@servers
@pytest.mark.usefixtures("impatient")
def test_of_a_batch_that_which_is_in_use_is_refused_alone(database: DatabaseStore) -> None:
    for verb, versions in (("write", (1, 2)), ("commit", (2, 3))):
        with database.memory.leases(list("abc")) as batch:
            with open_transaction(database, update="b"), pytest.raises(CommitRefused, match="1 of 3"):
                getattr(batch, verb)({id: {} for id in "abc"})
            ((id, error),) = batch.refused.items()
            assert (id, type(error)) == ("b", WriteError)
            assert str(error) == "'b' is in use by another transaction. Nothing was changed."
            assert [(found := database.memory.record(id)) and found.version for id in "ac"] == [versions[0]] * 2
            assert batch.write({"b": {}}) == {"b": versions[0]}


@servers
@pytest.mark.usefixtures("impatient")
class TestParents:
    """A first write looks up the root of its parent, and does no more to that."""

    @pytest.fixture(autouse=True)
    def parent(self, database: DatabaseStore) -> None:
        database.memory.write("grand", {})
        database.memory.write("parent", {}, metadata=Metadata(parent="grand"))

    @staticmethod
    def assert_that_children_can_be_written(database: DatabaseStore) -> None:
        memory, of_parent = database.memory, Metadata(parent="parent")
        memory.write("alone", {}, metadata=of_parent)
        memory.write("expected", {}, metadata=of_parent, expected_version=0)
        with memory.lease("leased") as lease:
            lease.commit({}, metadata=of_parent)
        with memory.leases(["a", "b", "c"]) as batch:
            batch["c"].write({}, metadata=Metadata(parent="a"))
            batch.commit({"a": {"parentSubject": "parent"}, "b": {"parentSubject": "a"}, "c": {}})
        assert memory.children("parent") == ["a", "alone", "expected", "leased"]
        assert memory.tree("grand") == ["a", "alone", "b", "expected", "grand", "leased", "parent"]
        assert memory.tree("a") == ["c"]

    def test_it_waits_for_nobody_who_works_on_that(self, database: DatabaseStore) -> None:
        with open_transaction(database, update="parent"):
            self.assert_that_children_can_be_written(database)

    def test_it_keeps_nobody_from_that(self, database: DatabaseStore) -> None:
        def others() -> None:
            assert database.memory.lock("parent") is True
            assert database.memory.write("parent", {}) == 2
            connections[database.alias].close()

        with database.memory.leases(["a", "b"]) as batch, transaction.atomic(using=database.alias):
            database.memory.write("alone", {}, metadata=Metadata(parent="parent"))
            batch.commit({"a": {}, "b": {}}, metadata=Metadata(parent="parent"))
            in_thread(others).result()


class TestConnections:
    @servers
    def test_a_read_recovers_from_a_session_that_was_ended(self, database: DatabaseStore) -> None:
        database.memory.write("a", {"n": 1})
        end_session(database.alias)

        assert database.memory.read("a") == {"n": 1}

    @servers
    def test_a_write_makes_one_attempt_and_the_next_call_recovers(self, database: DatabaseStore) -> None:
        database.memory.write("a", {"n": 1})
        end_session(database.alias)
        with attempts(database.alias) as queries, pytest.raises(UnknownOutcome):
            database.memory.write("a", {"n": 2})

        assert len([query for query in queries if query.startswith("UPDATE")]) <= 1
        assert database.memory.write("a", {"n": 3}) == 2

    @servers
    def test_a_lock_fails_and_the_next_one_recovers(self, database: DatabaseStore) -> None:
        database.memory.write("a", {"n": 1})
        end_session(database.alias)

        with pytest.raises(LockError, match="The store failed to lock 'a'"):
            database.memory.lock("a")
        assert database.memory.lock("a") is True

    @servers
    def test_unlock_gives_back_on_a_fresh_one(self, database: DatabaseStore, caplog: pytest.LogCaptureFixture) -> None:
        for give_back in (lambda lease: database.memory.unlock("a"), lambda lease: lease.release()):
            with database.memory.lease("a") as lease:
                end_session(database.alias)
                assert give_back(lease) is True
                assert list(database.memory.held_locks()) == []
        assert caplog.messages == []

    @servers
    def test_a_block_that_ends_on_a_dead_one_gives_back(self, database: DatabaseStore) -> None:
        with database.memory.lease("a"):
            end_session(database.alias)
        assert list(database.memory.held_locks()) == []

    @servers
    def test_a_read_inside_a_transaction_is_not_retried(self, database: DatabaseStore) -> None:
        failing = pytest.raises(ReadError, match="The store failed to read 'a'")
        with failing as failed, transaction.atomic(using=database.alias):
            end_session(database.alias)
            with attempts(database.alias) as queries:
                database.memory.read("a")
        assert len(queries) == 1
        assert failed.value.__cause__ is not None

    def test_a_healthy_one_is_kept_whatever_conn_max_age_says(self, database: DatabaseStore) -> None:
        connection = connections[database.alias]
        assert connection.settings_dict["CONN_MAX_AGE"] == 0
        database.memory.read("a")
        before = connection.connection
        with open_transaction(database, insert="a"):
            database.memory.lock("a")
        with database.memory.lease("a") as lease:
            lease.commit({})

        assert connection.connection is before

    @postgresql
    def test_one_that_a_health_check_replaces_is_not_taken_for_lost(self, database: DatabaseStore) -> None:
        database.memory.write("a", {"n": 1})
        with set_up(database.alias, CONN_HEALTH_CHECKS=True), open_transaction(database, update="a"):
            database.memory.read("a")
            execute(database.alias, "ALTER ROLE CURRENT_USER SET lock_timeout = '100ms'")
            try:
                end_session(database.alias)
                vars(connections[database.alias])["health_check_done"] = False
                with pytest.raises(WriteError) as failed:
                    database.memory.write("a", {"n": 2})
            finally:
                execute(database.alias, "ALTER ROLE CURRENT_USER RESET lock_timeout")
        assert type(failed.value) is WriteError
        assert database.memory.read("a") == {"n": 1}

    @servers
    def test_one_to_a_server_that_became_read_only_is_left_after_the_first_refusal(
        self, database: DatabaseStore
    ) -> None:
        memory, connection = database.memory, connections[database.alias]
        memory.write("a", {"n": 1})
        refused: list[Callable[[], object]] = [
            lambda: memory.lock("a"),
            lambda: memory.write("a", {}),
            lambda: memory.force_unlock("b"),
        ]
        for verb in refused:
            self.become_read_only(database)
            session = connection.connection
            assert memory.read("a") == {"n": 1}
            with pytest.raises(StoreError):
                verb()
            assert memory.write("b", {})
            assert connection.connection is not session

    @postgresql
    def test_so_is_one_of_a_pool(self, database: DatabaseStore) -> None:
        options = {**connections[database.alias].settings_dict["OPTIONS"], "pool": {"min_size": 1, "max_size": 1}}
        with set_up(database.alias, OPTIONS=options):
            database.memory.write("a", {"n": 1})
            self.become_read_only(database)
            with pytest.raises(LockError):
                database.memory.lock("a")
            assert database.memory.lock("a") is True
            connection: Any = connections[database.alias]
            connection.close_pool()

    @servers
    def test_one_that_is_read_only_is_kept_within_a_transaction(self, database: DatabaseStore) -> None:
        self.become_read_only(database)
        with transaction.atomic(using=database.alias):
            session = connections[database.alias].connection
            with pytest.raises(WriteError):
                database.memory.write("a", {})
            assert connections[database.alias].connection is session
            transaction.set_rollback(True, using=database.alias)
        connections[database.alias].close()

    @staticmethod
    def become_read_only(database: DatabaseStore) -> None:
        changes = {"postgresql": "CHARACTERISTICS AS TRANSACTION READ ONLY", "mariadb": "TRANSACTION READ ONLY"}
        execute(database.alias, f"SET SESSION {changes[database.name]}")

    @postgresql
    def test_keeping_alive_leaves_no_session_behind(self, database: DatabaseStore) -> None:
        sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        before = execute(database.alias, sessions)
        with database.memory.lease("a", ttl=3, keep_alive=True) as lease:
            database.wait_until(lambda: execute(database.alias, sessions) > before)
            assert lease.remaining
        database.wait_until(lambda: execute(database.alias, sessions) == before)

    def test_what_psycopg_2_notes_of_a_replica_that_was_not_waited_for_is_heard(self) -> None:
        notices = ["WARNING:  of the step before: canceling wait for synchronous replication due to user request\n"]
        connection: Any = MagicMock(vendor="postgresql", errors_occurred=False)
        connection.connection = MagicMock(spec=["notices"], notices=notices)
        sessions.mend(connection)
        sessions.refuse_unreplicated()
        notices.append("NOTICE:  anything else\n")
        sessions.refuse_unreplicated()
        notices.append("WARNING:  canceling wait for synchronous replication due to user request\nDETAIL:  ...\n")
        with pytest.raises(sessions.Unreplicated):
            sessions.refuse_unreplicated()
        sessions.mend(MagicMock(vendor="sqlite", errors_occurred=False))
        sessions.refuse_unreplicated()  # It is not said of the next step, in another database.


class TestErrors:
    def test_what_retrying_cannot_mend_is_not_retried(self, database: DatabaseStore) -> None:
        table = MachineRecord._meta.db_table
        execute(database.alias, f"ALTER TABLE {table} RENAME TO renamed")
        try:
            with attempts(database.alias) as queries, pytest.raises(ReadError):
                database.memory.read("a")
        finally:
            execute(database.alias, f"ALTER TABLE renamed RENAME TO {table}")
        assert len(queries) == 1

    @sqlite
    def test_a_busy_database_is_not_called_a_holder(self, database: DatabaseStore) -> None:
        with (
            open_transaction(database, insert="b"),
            pytest.raises(LockDenied, match="^The database is busy with another transaction. Try again later"),
            database.memory.lease("a"),
        ):
            pass

    @pytest.mark.parametrize("stored", ["[1]", '"text"', "5"])
    def test_a_state_that_is_no_object_is_corrupt_and_a_write_mends_it(
        self, database: DatabaseStore, stored: str
    ) -> None:
        memory = database.memory
        memory.write("a", {"n": 1})
        execute(database.alias, f"UPDATE {MachineRecord._meta.db_table} SET data = %s", stored)

        with pytest.raises(CorruptRecord, match="The state of 'a' is a (list|str|int), not a JSON object"):
            memory.read("a")
        with pytest.raises(CorruptRecord):
            memory.record("a")
        with pytest.raises(CorruptRecord), memory.lease("a"):
            pass
        assert memory.lock("a") is True
        assert memory.write("a", {"n": 2}) == 2
        assert memory.read("a") == {"n": 2}

    @sqlite
    def test_a_state_that_is_no_json_is_corrupt_too(self, database: DatabaseStore) -> None:
        database.memory.write("a", {"n": 1})
        execute("default", "PRAGMA ignore_check_constraints = ON")
        execute("default", f"UPDATE {MachineRecord._meta.db_table} SET data = '{{'")
        execute("default", "PRAGMA ignore_check_constraints = OFF")

        with pytest.raises(CorruptRecord, match="The state of 'a' is a str, not a JSON object"):
            database.memory.read("a")

    @sqlite
    def test_an_unknown_alias_is_a_wrong_configuration(self, database: DatabaseStore) -> None:
        with pytest.raises(InvalidConfiguration, match=r"'nowhere' is not in DATABASES \(default.*\): see `using`."):
            DatabaseMachineMemory(using="nowhere").read("a")

    @sqlite
    def test_a_row_that_cannot_be_inserted_for_another_reason_is_an_error(self, database: DatabaseStore) -> None:
        table = MachineRecord._meta.db_table
        execute("default", f"CREATE TRIGGER full BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'full'); END")
        try:
            with pytest.raises(WriteError, match=r"The store failed to write 'a' \(IntegrityError\)"):
                database.memory.write("a", {})
            with pytest.raises(LockError):
                database.memory.lock("a")
        finally:
            execute("default", "DROP TRIGGER full")

    @pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ"])
    @servers
    def test_a_write_that_had_to_wait_for_another_one_is_a_conflict(
        self, database: DatabaseStore, isolation: str
    ) -> None:
        database.memory.write("a", {"n": 1})
        waiting = {
            "postgresql": "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'",
            "mariadb": "SELECT 1 FROM information_schema.processlist WHERE info LIKE 'UPDATE%%'",
        }[database.name]

        def write() -> None:
            level = {
                "postgresql": f"SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL {isolation}",
                "mariadb": f"SET SESSION TRANSACTION ISOLATION LEVEL {isolation}",
            }[database.name]
            execute(database.alias, level)
            with pytest.raises(VersionConflict, match="'a' is at version 2, not 1"):
                database.memory.write("a", {"n": 3}, expected_version=1)

        with transaction.atomic(using=database.alias):
            database.memory.write("a", {"n": 2})
            thread = in_thread(write)
            in_thread(lambda: database.wait_until(lambda: execute(database.alias, waiting))).result()
        thread.result()
        assert database.memory.read("a") == {"n": 2}

    def test_a_machine_that_keeps_changing_is_an_error_in_the_end(
        self, database: DatabaseStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(type(database.steps), "write_first", lambda *args: False)

        with pytest.raises(WriteError, match="'a' kept changing while it was written. Nothing was changed."):
            database.memory.write("a", {})

    def test_two_first_writes_at_once_are_both_accepted(
        self, database: DatabaseStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        steps = type(database.steps)
        insert: Callable[..., bool] = steps.write_first

        def late(self: Any, *args: Any) -> bool:
            monkeypatch.undo()
            in_thread(lambda: database.memory.write("a", {"by": "other"})).result()
            return insert(self, *args)

        monkeypatch.setattr(steps, "write_first", late)
        assert database.memory.write("a", {"by": "test"}) == 2
        assert database.memory.read("a") == {"by": "test"}


class TestPurge:
    """A cluster gives up a transaction that meets another one which was committed elsewhere."""

    @pytest.fixture
    def given_up(self, database: DatabaseStore) -> Iterator[list[int]]:
        """So many batches from now on, and one after the other."""
        left = [0]

        def give_up(execute: Any, query: str, *args: Any) -> Any:
            if query.startswith("UPDATE") and "lease_token" in query and left[0]:
                left[0] -= 1
                cause = Exception(1213, "Deadlock found when trying to get lock; try restarting transaction")
                vars(cause)["sqlstate"] = "40001"
                raise OperationalError(*cause.args) from cause
            return execute(query, *args)

        database.memory.write("a", {})
        database.memory.lock("a")
        database.expire("a")
        with connections[database.alias].execute_wrapper(give_up):
            yield left

    def test_a_batch_that_was_given_up_is_repeated(self, database: DatabaseStore, given_up: list[int]) -> None:
        given_up[0] = batches.REPEATS
        assert database.memory.purge_expired_locks().cleared == 1
        assert given_up == [0]

    def test_but_not_for_ever(self, database: DatabaseStore, given_up: list[int]) -> None:
        given_up[0] = batches.REPEATS + 1
        with pytest.raises(LockError):
            database.memory.purge_expired_locks()
        assert database.memory.purge_expired_locks().cleared == 1

    def test_nor_within_a_transaction_of_the_caller(self, database: DatabaseStore, given_up: list[int]) -> None:
        given_up[0] = 1
        with transaction.atomic(using=database.alias):
            with pytest.raises(LockError):
                database.memory.purge_expired_locks()
            transaction.set_rollback(True, using=database.alias)
        assert given_up == [0]


class TestPurgingTrees:
    @sqlite
    @pytest.mark.parametrize("dry_run", [True, False])
    def test_one_of_more_machines_than_a_statement_takes_parameters(
        self, database: DatabaseStore, dry_run: bool
    ) -> None:
        now, count = StoreTime(-60), 2 * purge.MOST_IDS + 1
        machine = {"data": {}, "version": 1, "status": "done", "root": "r", "fence": 1}
        database.rows.bulk_create(
            MachineRecord(id=id, parent=None if id == "r" else "r", created_at=now, written_at=now, **machine)
            for id in ["r", *(f"m{number}" for number in range(1, count))]
        )
        session: Any = connections[database.alias].connection
        kept = session.setlimit(SQLITE_LIMIT_VARIABLE_NUMBER, purge.MOST_IDS + 100)
        try:
            result = database.memory.purge_machines(status="done", idle=30, tree=True, dry_run=dry_run)
        finally:
            session.setlimit(SQLITE_LIMIT_VARIABLE_NUMBER, kept)
        assert (result.deleted, database.count()) == (count, count if dry_run else 0)


class TestCodes:
    """What the drivers call the database's own code for an error."""

    @pytest.mark.parametrize(
        ("cause", "contention", "transient"),
        [
            ({"sqlstate": "55P03"}, True, True),
            ({"pgcode": "55P03"}, True, True),
            ({"pgcode": "40001"}, True, True),
            ({"pgcode": "57P01"}, False, True),
            ({"pgcode": "42501"}, False, False),
            ({"pgcode": None}, False, True),
            ({"sqlite_errorname": "SQLITE_BUSY_SNAPSHOT"}, True, True),
            ({"sqlite_errorname": "SQLITE_FULL"}, False, False),
            ({"args": (1205, "Lock wait timeout exceeded")}, True, True),
            ({"args": (2006, "Server has gone away")}, False, True),
            ({"args": (1054, "Unknown column")}, False, False),
            ({"args": (1213, "Deadlock found when trying to get lock")}, True, True),
            ({"args": (3101, "Plugin instructed the server to rollback the current transaction.")}, True, True),
            ({"args": (1180, "Got error 149 'Lock deadlock; Retry transaction' during COMMIT")}, True, True),
            ({"args": (1180, "... (provider status: Not connected to Primary Component)")}, False, False),
            ({"args": (1047, "WSREP has not yet prepared node for application use")}, False, True),
        ],
        ids=str,
    )
    def test_each_is_understood(self, cause: dict[str, Any], contention: bool, transient: bool) -> None:
        error = OperationalError(*cause.get("args", ["as Django raises it"]))
        error.__cause__ = Exception()
        for name, value in cause.items():
            setattr(error.__cause__, name, value)

        assert is_contention(error) is contention
        assert is_transient(error) is transient
        assert is_unknown(error) is ("Not connected" in str(error))


class TestState:
    """State in the terms of the ORM and of SQL."""

    DATA = {"z": -0.0, "a": [1.0, 1, 1e23, 10**23, True, None, {"é": "", "b": 2, "B": "x"}]}

    @pytest.fixture
    def exactly(self, database: DatabaseStore) -> str:
        database.memory.write("a", self.DATA)
        return repr(self.DATA)

    def test_the_orm_reads_it_as_it_was_written(self, database: DatabaseStore, exactly: str) -> None:
        table = MachineRecord._meta.db_table
        (in_sql,) = MachineRecord.objects.raw(f"SELECT id, data FROM {table}", using=database.alias)
        for data in (
            database.rows.get().data,
            database.rows.values_list("data", flat=True).first(),
            database.rows.values_list("data", flat=True).distinct().get(),
            database.rows.annotate(copy=F("data")).values_list("copy", flat=True).get(),
            database.rows.union(database.rows.all()).values_list("data", flat=True)[0],
            in_sql.data,
        ):
            assert repr(data) == exactly

    def test_the_orm_writes_it_as_it_is(self, database: DatabaseStore, exactly: str) -> None:
        rows, now = database.rows, datetime.now(UTC)
        rows.bulk_create(MachineRecord(id=id, data=self.DATA, fence=1, created_at=now) for id in ("b", "c", "d"))
        machine = rows.get(pk="b")
        machine.save(using=database.alias)
        rows.filter(pk="c").update(data=self.DATA)
        rows.bulk_update([MachineRecord(pk="d", data=self.DATA)], ["data"])

        assert [repr(data) for data in rows.values_list("data", flat=True)] == [exactly] * 4
        assert [repr(database.memory.read(id)) for id in "abc"] == [exactly] * 3

    def test_it_can_be_searched(self, database: DatabaseStore, exactly: str) -> None:
        rows = database.rows
        database.memory.write("b", {"status": "new", "order": {"lines": [{"sku": "x"}], "total": 7}})
        found = [
            rows.filter(data__status="new"),
            rows.filter(data__order__total__gte=7),
            rows.filter(data__order__lines__0__sku="x"),
            rows.filter(data__has_key="order"),
            rows.filter(data={"status": "new", "order": {"lines": [{"sku": "x"}], "total": 7}}),
            rows.filter(data__isnull=False).exclude(data__has_key="z"),
            rows.filter(data__order__total__in=[7]).order_by("data__order__total"),
        ]
        if database.name != "sqlite":
            found.append(rows.filter(data__contains={"status": "new"}))
        assert [[machine.pk for machine in machines] for machines in found] == [["b"]] * len(found)
        assert rows.values_list("data__order__total", flat=True).get(pk="b") == 7

    def test_the_type_of_its_column_on_mysql_keeps_it_too(self) -> None:
        mysql: Any = SimpleNamespace(vendor="mysql", mysql_is_mariadb=False)
        assert MachineRecord._meta.get_field("data").db_type(mysql) == (
            "longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
        )

    @postgresql
    def test_the_type_of_its_column_keeps_it(self, database: DatabaseStore, exactly: str) -> None:
        table = MachineRecord._meta.db_table
        assert execute(database.alias, f"SELECT pg_typeof(data)::text, data::text FROM {table}") == [
            ("json", '{"z":-0.0,"a":[1.0,1,1e+23,100000000000000000000000,true,null,{"é":"","b":2,"B":"x"}]}')
        ]
        assert execute(database.alias, f"SELECT id FROM {table} WHERE data::jsonb @> %s", '{"z": 0}') == [("a",)]


class TestClock:
    def test_the_clock_of_this_host_decides_nothing(
        self, database: DatabaseStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = time.time
        worker = Worker(database.memory)
        database.memory.lock("a", ttl=60)
        for hours in (-1, 1):
            monkeypatch.setattr(time, "time", lambda shift=hours * 3600: now() + shift)
            assert worker.lock("a") is False
        assert database.memory.write("a", {}) == 1

    @pytest.mark.parametrize("settings", [{"USE_TZ": True}, {"USE_TZ": False}], ids=["USE_TZ", "no USE_TZ"])
    @servers
    def test_the_time_zone_of_the_session_changes_nothing(
        self, database: DatabaseStore, settings: dict[str, bool]
    ) -> None:
        connections[database.alias].close()
        with override_settings(TIME_ZONE="Asia/Kolkata", **settings), timezone.override("Asia/Tokyo"):
            if database.name == "mariadb":
                execute(database.alias, "SET time_zone = '-07:00'")
            database.memory.lock("a", ttl=60)
            (info,) = database.memory.held_locks()
            assert Worker(database.memory).lock("a") is False
            database.memory.write("a", {})
            record = database.memory.record("a")
        connections[database.alias].close()

        assert record
        for moment in (info.locked_at, info.expires_at - timedelta(seconds=60), record.created_at, record.written_at):
            assert moment.tzinfo is UTC
            assert abs(moment - datetime.now(UTC)) < timedelta(seconds=5)

    @pytest.mark.parametrize(
        ("ttl", "milliseconds"), [(0.01, 10), (0.0101, 11), (0.1239, 124), (8.2, 8_200), (16.1, 16_100)]
    )
    @sqlite
    def test_the_millisecond_that_has_begun_ends_no_lease_early(
        self, database: DatabaseStore, ttl: float, milliseconds: int
    ) -> None:
        steps, times = database.steps, database.rows.values_list("lease_acquired_at", "lease_expires_at")
        for id in map(str, range(10)):
            asked_at = time.time()
            assert steps.acquire(id, token=TOKEN, owner="o", ttl=ttl, trace=None)
            acquired_at, expires_at = times.get(pk=id)
            assert expires_at - acquired_at == timedelta(milliseconds=milliseconds)
            assert expires_at.timestamp() >= asked_at + ttl

            database.rows.filter(pk=id).update(lease_expires_at=StoreTime(60))
            asked_at = time.time()
            assert steps.renew(id, token=TOKEN, ttl=ttl)
            assert times.get(pk=id)[1].timestamp() >= asked_at + ttl

    def test_an_expiry_equal_to_now_is_expired(self, database: DatabaseStore, monkeypatch: pytest.MonkeyPatch) -> None:
        noon = {"sqlite": "'2030-01-01 12:00:00'"}.get(database.name, "TIMESTAMP '2030-01-01 12:00:00'")
        for texts in (sql.NOW, sql.LATER, sql.LEASE_START, sql.LEASE_END):
            monkeypatch.setitem(texts, connections[database.alias].vendor, noon)
        monkeypatch.setattr(StoreTime, "as_sql", lambda *args, **context: (noon, ()))
        monkeypatch.setattr(statements, "_pages", {})
        worker = Worker(database.memory)
        assert database.memory.lock("a") is True
        with pytest.raises(LockLost):
            database.memory.write("a", {})
        assert list(database.memory.held_locks()) == []
        assert [database.rows.expired().count(), database.rows.held().count()] == [1, 0]
        assert worker.lock("a") is True
        assert database.rows.free().count() == 0


def table() -> str:
    return str(MachineRecord._meta.db_table)


class TestFences:
    @pytest.fixture
    def set_back(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
        now = time.time_ns
        return lambda: monkeypatch.setattr(time, "time_ns", lambda: now() - 3_600_000_000_000)

    @sqlite
    def test_they_grow_while_the_clock_of_the_host_is_set_back(
        self, database: DatabaseStore, set_back: Callable[[], None]
    ) -> None:
        memory, rows = database.memory, database.rows
        fences: list[int] = []

        def lease_and_force_and_write() -> None:
            with memory.lease("a") as lease:
                fences.append(lease.fence)
                memory.force_unlock("a")
            fences.append(rows.get().fence)
            rows.all().delete()
            memory.write("a", {}, metadata=Metadata(status="done"))
            fences.append(rows.get().fence)

        def purge() -> None:
            database.age("a", 60)
            memory.purge_machines(status="done", idle=1)

        def purge_leases() -> None:
            database.steps.acquire("a", token=TOKEN, owner="o", ttl=60, trace=None)
            rows.update(version=0)
            database.expire("a")
            memory.purge_expired_locks()

        def flush() -> None:
            call_command("flush", database="default", interactive=False, verbosity=0)

        lease_and_force_and_write()
        set_back()
        for remove in (lambda: memory.cleanup("a"), purge, purge_leases, flush):
            remove()
            assert database.count() == 0
            lease_and_force_and_write()
        assert fences == sorted(set(fences))

    @sqlite
    def test_what_keeps_them_is_there_after_every_migration(self, database: DatabaseStore) -> None:
        kept = "SELECT name FROM sqlite_master WHERE name LIKE 'machine_memory%%' ORDER BY name"
        names = execute("default", kept)
        assert {("machine_memory_fence",), ("machine_memory_removal",)} <= set(names)

        call_command("migrate", "machine_memory", "zero", verbosity=0)
        assert execute("default", kept) == []
        call_command("migrate", "machine_memory", verbosity=0)
        assert execute("default", kept) == names
        execute("default", "DROP TRIGGER machine_memory_removal")  # As where a migration makes the table anew.
        call_command("migrate", "machine_memory", verbosity=0)
        assert execute("default", kept) == names


class Elsewhere:
    """A router that sends everything to a database that is not there."""

    def db_for_read(self, *args: Any, **hints: Any) -> str:
        return "elsewhere"

    db_for_write = db_for_read


def test_everything_goes_to_the_alias_of_the_memory(database: DatabaseStore) -> None:
    with override_settings(DATABASE_ROUTERS=[Elsewhere()]):
        with database.memory.lease("a") as lease:
            lease.write({"n": 1}, metadata=Metadata(parent="p"))
            assert database.memory.read("a") == {"n": 1}
        assert database.memory.children("p") == ["a"]


@servers
def test_acquiring_waits_for_no_row(database: DatabaseStore) -> None:
    database.memory.read("a")
    with attempts(database.alias) as queries:
        database.memory.lock("a")
    if database.name == "mariadb" and database.one_statement:
        assert queries[0].startswith((sql.WITHOUT_WAITING, sql.ONCE))
    else:
        assert "FOR UPDATE SKIP LOCKED" in queries[0]


def test_another_memory_of_the_same_table_is_not_the_holder(database: DatabaseStore) -> None:
    database.memory.lock("a")

    with pytest.raises(LockNotHeld):
        database.new_memory().write("a", {})


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (lambda rows: rows.held(), "machine_lease"),
        (lambda rows: rows.expired(), "machine_lease"),
        (lambda rows: rows.children_of("p"), "machine_parent"),
        (lambda rows: rows.tree_of("p"), "machine_root"),
    ],
    ids=["held", "expired", "children", "tree"],
)
def test_what_lists_machines_has_an_index(database: DatabaseStore, query: Any, index: str) -> None:
    if database.name == "postgresql":
        execute(database.alias, "SET enable_seqscan = off")
    plan = query(database.rows).order_by().values("pk").explain()
    if database.name == "postgresql":
        execute(database.alias, "RESET enable_seqscan")
    assert index in plan
