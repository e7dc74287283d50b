"""How many statements a step takes, what they are made of, and that nothing is left behind."""

import gc
import secrets
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Context
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from django.db import connections
from opentelemetry.metrics import get_meter

import machine_memory
from machine_memory import DatabaseMachineMemory, LockNotHeld, Metadata, VersionConflict
from machine_memory.backends.database import sql
from machine_memory.backends.database.clock import StoreTime
from machine_memory.backends.database.queries import NO_LEASE
from machine_memory.backends.database.statements import MachineStatements, statements
from machine_memory.core import telemetry
from machine_memory.core.records import Change, EncodedData
from machine_memory.models import MachineRecord
from tests.conftest import Worker, databases
from tests.database.store import DatabaseStore
from tests.database.test_database import TOKEN, attempts, execute

one_statement = pytest.mark.parametrize("database", databases(forms=("",)), indirect=True)
"""On every database that has the one-statement forms."""


class TestCounts:
    @one_statement
    def test_a_lease_and_a_commit_are_two(self, database: DatabaseStore) -> None:
        database.memory.write("a", {"n": 1})
        with attempts(database.alias) as sent, database.memory.lease("a") as lease:
            lease.commit({"n": lease.data["n"] + 1})

        assert len(sent) == 2
        assert database.memory.read("a") == {"n": 2}

    @one_statement
    def test_the_four_operations_are_four(self, database: DatabaseStore) -> None:
        memory = database.memory
        memory.write("a", {"n": 1})
        with attempts(database.alias) as sent:
            assert memory.lock("a") is True
            assert memory.read("a") == {"n": 1}
            assert memory.write("a", {"n": 2}) == 2
            assert memory.unlock("a") is True

        assert [statement.split()[0] for statement in sent][1:] == ["SELECT", "UPDATE", "UPDATE"]
        assert len(sent) == 4

    @one_statement
    def test_renewing_is_one_and_so_is_releasing(self, database: DatabaseStore) -> None:
        with database.memory.lease("a") as lease, attempts(database.alias) as sent:
            lease.renew()
            lease.write({})
            lease.release()
        assert len(sent) == 3

    @one_statement
    def test_the_first_lease_of_an_absent_machine(self, database: DatabaseStore) -> None:
        database.memory.read("warm up")
        with attempts(database.alias) as sent:
            assert database.memory.lock("a") is True
        assert len(sent) == (2 if database.name == "postgresql" else 1)

    @one_statement
    def test_a_denied_lock(self, database: DatabaseStore) -> None:
        database.memory.lock("a")
        with attempts(database.alias) as sent:
            assert database.memory.lock("a") is False
        assert len(sent) == (2 if database.name == "postgresql" else 1)

    @one_statement
    def test_the_first_write_of_a_machine_takes_a_second_one(self, database: DatabaseStore) -> None:
        database.memory.read("warm up")
        with attempts(database.alias) as sent:
            database.memory.write("a", {})
        assert [statement.split()[0] for statement in sent] == ["UPDATE", "INSERT"]

    @one_statement
    def test_on_mariadb_that_with_a_parent_takes_one_more(self, database: DatabaseStore) -> None:
        database.memory.read("warm up")
        with attempts(database.alias) as sent:
            database.memory.write("a", {}, metadata=Metadata(parent="p"))
        before = ["SELECT"] if database.name == "mariadb" else []
        assert [statement.split()[0] for statement in sent] == [*before, "UPDATE", "INSERT"]

    @one_statement
    def test_a_later_one_with_a_parent_is_one(self, database: DatabaseStore) -> None:
        of_parent = Metadata(parent="p")
        database.memory.write("a", {}, metadata=of_parent)
        with database.memory.lease("a") as lease, attempts(database.alias) as sent:
            lease.write({}, metadata=of_parent)
            database.memory.write("a", {}, metadata=of_parent, expected_version=2)
        assert len(sent) == 2

    @one_statement
    def test_attaching_a_lease_is_one(self, database: DatabaseStore) -> None:
        with database.memory.lease("a") as lease:
            text = lease.detach()
        for ttl, count in ((None, 1), (60, 2 if database.name == "mariadb" else 1)):
            with attempts(database.alias) as sent:
                block = database.memory.attach(text, ttl=ttl)
                lease = block.__enter__()
            assert len(sent) == count, sent
            assert lease.detach() != text or ttl is None

    @one_statement
    def test_what_is_found_is_one_for_each_batch(
        self, database: DatabaseStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(type(database.memory.store), "batch", 2)
        for id in "abcde":
            database.memory.write(id, {})
        for limit, count in ((1, 1), (2, 1), (3, 2), (None, 3)):
            with attempts(database.alias) as sent:
                list(database.memory.find(limit=limit))
            assert len(sent) == count

    @one_statement
    def test_why_a_write_was_refused_takes_a_second_one(self, database: DatabaseStore) -> None:
        memory = database.memory
        memory.write("a", {})
        with attempts(database.alias) as sent, pytest.raises(VersionConflict):
            memory.write("a", {}, expected_version=7)
        assert [statement.split()[0] for statement in sent] == ["UPDATE", "SELECT"]

        Worker(memory).lock("a")
        with attempts(database.alias) as sent, pytest.raises(LockNotHeld):
            memory.write("a", {}, expected_version=1)
        assert [statement.split()[0] for statement in sent] == ["UPDATE", "SELECT"]


class TestPlans:
    """What the statements go by, as the optimizer has it: their key, whatever else there is."""

    KEY = {
        "sqlite": "sqlite_autoindex_machine_memory_machinerecord_1",
        "postgresql": "machine_memory_machinerecord_pkey",
        "mariadb": "PRIMARY",
    }
    LEASES = 5_000

    @pytest.fixture
    def crowd(self, database: DatabaseStore) -> Iterator[list[str]]:
        """Machines that are all leased, while the statistics know of none."""
        table, now = MachineRecord._meta.db_table, datetime.now(UTC)
        ids = [f"order-{number:04}" for number in range(self.LEASES)]
        if database.name == "postgresql":
            execute(database.alias, f"ALTER TABLE {table} SET (autovacuum_enabled = FALSE)")
        database.rows.bulk_create(MachineRecord(id=id, data={}, version=1, fence=1, created_at=now) for id in ids)
        execute(database.alias, f"ANALYZE {'TABLE ' if database.name == 'mariadb' else ''}{table}")
        database.rows.update(lease_token=TOKEN, lease_expires_at=StoreTime(3600))
        yield ids
        if database.name == "postgresql":
            execute(database.alias, f"ALTER TABLE {table} RESET (autovacuum_enabled)")

    def test_each_step_finds_its_row_by_the_key(self, database: DatabaseStore, crowd: list[str]) -> None:
        steps, rows, id = database.steps, database.rows, crowd[self.LEASES // 2]

        def change(token: str | None, version: int | None, *, release: bool = False) -> Change:
            text, labels = EncodedData("{}"), Metadata()
            known = {"token": token, "expected_version": version, "release": release}
            return Change(id=id, data=text, metadata=labels, ancestor=None, **known)  # type: ignore[arg-type]

        lease = {"owner": "o", "ttl": 60, "trace": None}
        with explained(database.alias) as statements:
            assert steps.acquire(id, token=TOKEN[::-1], **lease) is None
            assert steps.release(id, token=TOKEN) is True
            assert steps.write(change(None, None)) == 2
            assert steps.acquire(id, token=TOKEN, **lease)
            assert steps.granted(id, token=TOKEN)
            assert steps.standing(id) == (TOKEN, 2)
            assert steps.state(id) == {}
            assert steps.renew(id, token=TOKEN, ttl=60) is True
            assert steps.resume(id, token=TOKEN, ttl=None)
            assert steps.resume(id, token=TOKEN, ttl=60)
            assert steps.write(change(TOKEN, None)) == 3
            assert steps.write(change(TOKEN, 3)) == 4
            assert database.memory.store.holder_trace(id) is None
            assert steps.write(change(TOKEN, 4, release=True)) == 5
            assert steps.acquire(id, token=TOKEN, **lease)
            assert steps.release(id, token=TOKEN) is True
            batch = {secrets.token_hex(16): id for id in crowd[::500]}
            rows.filter(pk__in=batch.values()).update(**NO_LEASE)
            assert set(steps.acquire_each(batch, **lease)) == set(batch)
            changes = [replace(change(token, 1), id=id) for token, id in batch.items()]
            assert steps.write_each(changes) == set(batch.values()) - {id}
            assert steps.acquire(id, token=TOKEN, **lease) is None
            assert rows.force_release(id) is True
            assert rows.remove(id, token=None) is True
        assert len(statements) >= 15
        for text, plan in statements:
            assert "machine_lease" not in plan, text
            assert self.KEY[database.name] in plan or text.startswith("INSERT") or READ_BY_KEY in plan, text

    @pytest.mark.parametrize("machines", [2, 3, 5])
    @pytest.mark.parametrize("database", databases("mariadb", forms=("",)), indirect=True)
    def test_so_does_a_batch_in_a_small_table(self, database: DatabaseStore, machines: int) -> None:
        ids = [f"m{number}" for number in range(machines)]
        with database.memory.leases(ids) as batch:
            batch.commit({id: {} for id in ids})
        execute(database.alias, f"ANALYZE TABLE {MachineRecord._meta.db_table}")
        with database.memory.leases(ids[:2]) as batch, explained(database.alias) as statements:
            batch.commit({id: {} for id in ids[:2]})
        assert len(statements) == 2
        for text, plan in statements:
            assert self.KEY["mariadb"] in plan, (text, plan)

    @one_statement
    def test_what_is_found_is_found_by_the_key_or_by_the_status(
        self, database: DatabaseStore, crowd: list[str]
    ) -> None:
        database.rows.filter(pk__in=crowd[::100]).update(status="waiting")
        find, key = database.memory.find, self.KEY[database.name]
        cases: list[tuple[dict[str, Any], str]] = [
            ({"limit": 10}, key),
            ({"after": crowd[-100], "limit": 10}, key),
            ({"prefix": "order-49"}, key),
            ({"status": "waiting"}, "machine_status"),
            ({"status": "waiting", "after": crowd[2500]}, "machine_status"),
        ]
        for criteria, index in cases:
            with explained(database.alias) as statements:
                list(find(**criteria))
            ((text, plan),) = statements
            assert index in plan, (criteria, text, plan)
            assert "lease" not in text

    @pytest.fixture
    def sleepers(self, database: DatabaseStore) -> None:
        """Machines that wait for the same, some of which are due; half of the others are leased."""
        table, now = MachineRecord._meta.db_table, datetime.now(UTC)
        database.rows.bulk_create(
            MachineRecord(id=f"order-{number:04}", data={}, version=1, fence=1, created_at=now, status="waiting")
            for number in range(self.LEASES)
        )
        database.rows.filter(pk__lt="order-2000").update(wake_at=StoreTime(3600))
        database.rows.filter(pk__lt="order-0050").update(wake_at=StoreTime(-60))
        database.rows.filter(pk__gte="order-2500").update(lease_token=TOKEN, lease_expires_at=StoreTime(3600))
        database.rows.filter(pk__gte="order-4990").update(lease_expires_at=StoreTime(-60))
        execute(database.alias, f"ANALYZE {'TABLE ' if database.name == 'mariadb' else ''}{table}")

    @pytest.mark.parametrize("status", [None, "waiting"])
    def test_a_claim_goes_by_the_index_of_sleepers(
        self, database: DatabaseStore, sleepers: None, status: str | None
    ) -> None:
        with explained(database.alias) as statements, database.memory.claim(20, status=status) as batch:
            assert len(batch) == 20
        with explained(database.alias) as polls, database.memory.claim(20, status=status, expired=True) as batch:
            assert len(batch) == 10
        for index, found in (("machine_wake", statements), ("machine_lease", polls)):
            claims = [(text, plan) for text, plan in found if "lease_expires_at" in text and " LIMIT " in text]
            assert claims
            for text, plan in claims:
                assert index in plan, (text, plan)
                assert "Seq Scan" not in plan, (text, plan)
                assert "filesort" not in plan, (text, plan)

    @one_statement
    def test_exhausted_machines_are_found_by_it_too(self, database: DatabaseStore, sleepers: None) -> None:
        database.rows.filter(pk="order-2100").update(attempts=5)
        with explained(database.alias) as statements:
            assert [machine.pk for machine in database.rows.exhausted()] == ["order-2100"]
        assert ["machine_wake" in plan for _, plan in statements] == [True]


@contextmanager
def explained(alias: str) -> Iterator[list[tuple[str, str]]]:
    """Gather the statements on machines that are sent within, each with its plan at that moment."""
    statements: list[tuple[str, str]] = []
    explain = "EXPLAIN QUERY PLAN " if connections[alias].vendor == "sqlite" else "EXPLAIN "

    def note(execute: Any, query: str, params: Any, many: bool, context: Any) -> Any:
        text, cursor = query.removeprefix(sql.WITHOUT_WAITING).removeprefix(sql.ONCE), context["cursor"]
        if MachineRecord._meta.db_table in text:
            execute(explain + text, params, many, context)
            names = [column[0] for column in cursor.description]
            plan = [row[names.index(name)] for row in cursor.fetchall() for name in PLAN if name in names]
            statements.append((text, " ".join(map(str, plan))))
        return execute(query, params, many, context)

    with connections[alias].execute_wrapper(note):
        yield statements


PLAN = ("QUERY PLAN", "detail", "key", "Extra")
"""The columns of an explanation that tell what is used, and not what might have been."""
READ_BY_KEY = "Impossible WHERE noticed after reading const tables"
"""MariaDB's, where the row that the key names does not match."""


class TestTexts:
    @one_statement
    def test_they_are_built_once_and_hold_no_values(self, database: DatabaseStore) -> None:
        database.memory.read("warm up")
        with attempts(database.alias) as sent:
            for id in ("order-42", "'; DROP TABLE x; --"):
                with database.memory.lease(id, ttl=77) as lease:
                    lease.commit({"secret": "canary"})
                database.memory.read(id)

        assert sent[: len(sent) // 2] == sent[len(sent) // 2 :]
        for statement in sent:
            assert not any(value in statement for value in ("order-42", "DROP", "canary", "77"))

    @pytest.mark.parametrize(
        ("vendor", "returning"),
        [("oracle", True), ("mysql", True), ("sqlite", False)],
        ids=["Oracle", "MySQL", "an old SQLite"],
    )
    def test_where_a_database_cannot_take_them_the_orm_does(self, vendor: str, returning: bool) -> None:
        features = SimpleNamespace(can_return_columns_from_insert=returning)
        connection: Any = SimpleNamespace(vendor=vendor, features=features, mysql_is_mariadb=False)
        assert statements(connection, MachineRecord) is None

    @pytest.mark.parametrize("database", databases("mariadb", forms=("",)), indirect=True)
    def test_of_a_statement_that_a_node_has_repeated_the_last_answer_counts(
        self, database: DatabaseStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lease: dict[str, Any] = {"owner": "o", "ttl": 60, "trace": None}
        ours, theirs = (TOKEN, None, 0, 7, None), (TOKEN[::-1], None, 0, 8, None)
        steps = database.steps
        answers = MagicMock()
        connection = SimpleNamespace(alias=database.alias, cursor=lambda: answers, mysql_version=(10, 6))
        monkeypatch.setattr(steps, "_connection", connection)
        answers.__enter__.return_value.fetchall.return_value = [ours, theirs]
        assert steps.acquire("a", token=TOKEN, **lease) is None
        assert steps.acquire_each({TOKEN: "a"}, **lease) == {}
        answers.__enter__.return_value.fetchall.return_value = [theirs, ours]
        assert steps.acquire("a", token=TOKEN, **lease).fence == 7

    def test_the_orm_can_be_chosen(self, database: DatabaseStore) -> None:
        assert isinstance(database.steps, MachineStatements) is database.one_statement


class TestServerSideBinding:
    """Parameters that PostgreSQL binds itself, and not the client, have one type each."""

    @pytest.fixture
    def memory(self, database: DatabaseStore) -> Iterator[DatabaseMachineMemory]:
        connection = connections[f"{database.name}-proxied"]
        before = connection.settings_dict["OPTIONS"]
        connection.close()
        connection.settings_dict["OPTIONS"] = {**before, "server_side_binding": True}
        yield DatabaseMachineMemory(using=connection.alias, one_statement=database.one_statement)
        connection.close()
        connection.settings_dict["OPTIONS"] = before

    @pytest.mark.parametrize("database", databases("postgresql"), indirect=True)
    def test_every_statement_can_be_bound(self, database: DatabaseStore, memory: DatabaseMachineMemory) -> None:
        assert memory.write("a", {"n": 1}, metadata=Metadata(status="new", source="s", initiator="i")) == 1
        assert memory.write("b", {}, metadata=Metadata(parent="a")) == 1
        assert memory.write("c", {}, expected_version=0) == 1
        assert memory.lock("absent") is True
        assert memory.write("absent", {}, metadata=Metadata(parent="b")) == 1
        assert memory.unlock("absent") is True
        with memory.lease("a") as lease:
            lease.renew(60)
            text = lease.detach()
        with memory.attach(text) as lease:
            text = lease.detach()
        with memory.attach(text, ttl=60) as lease:
            assert Worker(memory).lock("a") is False
            assert lease.write({"n": 2}) == 2
            assert lease.commit({"n": 3}) == 3
        with pytest.raises(VersionConflict):
            memory.write("a", {}, expected_version=1)
        assert memory.read("a") == {"n": 3}
        assert memory.tree("a") == ["a", "absent", "b"]
        assert memory.force_unlock("a") is False
        assert memory.cleanup("a") is True

    @pytest.mark.parametrize("database", databases("postgresql"), indirect=True)
    def test_so_can_timers_batches_and_claims(self, database: DatabaseStore, memory: DatabaseMachineMemory) -> None:
        now, past = timedelta(0), datetime.now(UTC) - timedelta(seconds=5)
        waiting = Metadata(status="waiting")
        assert [memory.write("a", {}, wake_at=now), memory.write("b", {}, wake_at=past)] == [1, 1]
        assert [memory.write("a", {}, wake_at=past), memory.write("b", {}, wake_at=None)] == [2, 2]
        with memory.leases(["a", "b", "new"], keep_alive=True) as batch:
            batch.renew(60)
            assert batch.write({"a": {}, "new": {}}, wake_at=now) == {"a": 3, "new": 1}
            assert batch.commit({"a": {}, "b": {}}, wake_at=past, metadata=waiting) == {"a": 4, "b": 3}
            assert batch.commit({"new": {}}) == {"new": 2}
        with memory.claim(1, status="waiting", max_attempts=1) as batch:
            assert [(lease.id, lease.wake_at) for lease in batch] == [("a", past)]
        with memory.claim(ttl=60) as batch:
            assert [(lease.id, lease.attempts) for lease in batch] == [("b", 1), ("new", 1)]
            batch.commit({"b": {}}, wake_at=timedelta(days=1))
        for status in (None, "waiting"):
            Worker(memory).lock("a")
            database.expire("a")
            with memory.claim(expired=True, status=status) as batch:
                assert [lease.id for lease in batch] == ["a"]
        found = memory.find(status="waiting", prefix="a", idle=0, exhausted=False, after="Z", limit=1)
        assert [summary.id for summary in found] == ["a"]

    @pytest.mark.parametrize("database", databases("postgresql", forms=("",)), indirect=True)
    def test_so_can_what_the_orm_asks_of_the_state(
        self, database: DatabaseStore, memory: DatabaseMachineMemory
    ) -> None:
        rows = database.rows.using(memory.store.database)
        memory.write("a", {"n": 1.0, "list": [{"x": "y"}]})
        rows.bulk_update([MachineRecord(pk="a", data={"n": 1.0, "list": [{"x": "z"}]})], ["data"])

        assert rows.filter(data__list__0__x="z", data__n=1, data__has_key="n").get().data == memory.read("a")
        assert rows.filter(data={"list": [{"x": "z"}], "n": 1}).count() == 1


@pytest.mark.parametrize("database", databases("postgresql", forms=("",)), indirect=True)
def test_postgresql_keeps_room_for_the_next_version_of_a_row(database: DatabaseStore) -> None:
    with connections[database.alias].cursor() as cursor:
        cursor.execute("SELECT reloptions FROM pg_class WHERE relname = %s", [database.rows.model._meta.db_table])
        assert cursor.fetchone() == (["fillfactor=80"],)


PACKAGE = str(Path(machine_memory.__file__).parent / "*")


@pytest.mark.django_db(transaction=True)
def test_a_worker_that_goes_through_many_cycles_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease that is remembered, a text that is built anew, a context that grows: all would show."""
    memory = DatabaseMachineMemory()
    worker = (
        Context()
    )  # It remembers nothing of other tests, of which each shard would be copied when it is used first.
    # Not those that count the leases which other tests have left behind.
    monkeypatch.setattr(telemetry, "instruments", telemetry.Instruments(get_meter("machine_memory")))

    def cycles(name: str, count: int) -> None:
        for number in range(count):
            id = f"{name}-{number}"
            with memory.lease(id) as lease:
                lease.write({"n": number})
                lease.commit({"n": number})
            memory.lock(id)
            memory.write(id, {"n": number})
            memory.unlock(id)

    def in_use() -> tracemalloc.Snapshot:
        gc.collect()  # In a process that has run many tests before, cycles are looked for seldom.
        # Not what other threads of that process do meanwhile.
        return tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, PACKAGE, all_frames=True)])

    worker.run(cycles, "warm up", 100)
    tracemalloc.start(10)
    try:
        worker.run(cycles, "before", 100)
        before = in_use()
        worker.run(cycles, "after", 500)
        after = in_use()
    finally:
        tracemalloc.stop()
    grown = after.compare_to(before, "lineno")
    assert sum(line.size_diff for line in grown) < 20_000, "\n".join(map(str, grown[:5]))
