"""How many statements a step takes, what they are made of, and that nothing is left behind."""

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connections
from opentelemetry.metrics import get_meter

from machine_memory import DatabaseMachineMemory, LockNotHeld, Metadata, VersionConflict, sql, telemetry
from machine_memory.clock import StoreTime
from machine_memory.models import MachineRecord
from machine_memory.records import Change, EncodedData
from machine_memory.statements import MachineStatements, statements
from tests.conftest import Worker, databases
from tests.stores import DatabaseStore
from tests.test_database import TOKEN, attempts, execute

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
            database.memory.write("a", {}, metadata=Metadata(parent="p"))
        assert [statement.split()[0] for statement in sent] == ["UPDATE", "INSERT"]

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
            data = EncodedData("{}")
            return Change(id=id, data=data, metadata=Metadata(), token=token, expected_version=version, release=release)

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
            assert steps.write(change(TOKEN, None)) == 3
            assert steps.write(change(TOKEN, 3)) == 4
            assert database.memory._holder_trace(id) is None
            assert steps.write(change(TOKEN, 4, release=True)) == 5
            assert steps.acquire(id, token=TOKEN, **lease)
            assert rows.force_release(id) is True
            assert rows.remove(id, token=None) is True
        assert len(statements) >= 15
        for text, plan in statements:
            assert "machine_lease" not in plan, text
            assert self.KEY[database.name] in plan or text.startswith("INSERT") or READ_BY_KEY in plan, text


@contextmanager
def explained(alias: str) -> Iterator[list[tuple[str, str]]]:
    """Gather the statements on machines that are sent within, each with its plan at that moment."""
    statements: list[tuple[str, str]] = []
    explain = "EXPLAIN QUERY PLAN " if connections[alias].vendor == "sqlite" else "EXPLAIN "

    def note(execute: Any, query: str, params: Any, many: bool, context: Any) -> Any:
        text, cursor = query.removeprefix(sql.WITHOUT_WAITING), context["cursor"]
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
        assert statements(connection) is None

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
            assert Worker(memory).lock("a") is False
            assert lease.write({"n": 2}) == 2
            assert lease.commit({"n": 3}) == 3
        with pytest.raises(VersionConflict):
            memory.write("a", {}, expected_version=1)
        assert memory.read("a") == {"n": 3}
        assert memory.tree("a") == ["a", "absent", "b"]
        assert memory.force_unlock("a") is False
        assert memory.cleanup("a") is True

    @pytest.mark.parametrize("database", databases("postgresql", forms=("",)), indirect=True)
    def test_so_can_what_the_orm_asks_of_the_state(
        self, database: DatabaseStore, memory: DatabaseMachineMemory
    ) -> None:
        rows = database.rows.using(memory.using)
        memory.write("a", {"n": 1.0, "list": [{"x": "y"}]})
        rows.bulk_update([MachineRecord(pk="a", data={"n": 1.0, "list": [{"x": "z"}]})], ["data"])

        assert rows.filter(data__list__0__x="z", data__n=1, data__has_key="n").get().data == memory.read("a")
        assert rows.filter(data={"list": [{"x": "z"}], "n": 1}).count() == 1


@pytest.mark.parametrize("database", databases("postgresql", forms=("",)), indirect=True)
def test_postgresql_keeps_room_for_the_next_version_of_a_row(database: DatabaseStore) -> None:
    with connections[database.alias].cursor() as cursor:
        cursor.execute("SELECT reloptions FROM pg_class WHERE relname = %s", [database.rows.model._meta.db_table])
        assert cursor.fetchone() == (["fillfactor=80"],)


@pytest.mark.django_db(transaction=True)
def test_a_worker_that_goes_through_many_cycles_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease that is remembered, a text that is built anew, a context that grows: all would show."""
    memory = DatabaseMachineMemory()
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

    cycles("warm up", 100)
    tracemalloc.start()
    try:
        cycles("before", 100)
        before, _ = tracemalloc.get_traced_memory()
        cycles("after", 500)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 20_000
