"""What the doctor finds on real servers, and where it finds nothing."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from django.core.management import CommandError, call_command
from django.db import connections
from django.db.migrations.recorder import MigrationRecorder
from django.test import override_settings

from machine_memory import BaseMachineMemory, memories
from machine_memory.backends.database import doctor
from machine_memory.backends.redis import doctor as doctor_of_redis
from machine_memory.backends.simple import SimpleStore
from machine_memory.doctor import findings
from machine_memory.doctor.examination import examine
from machine_memory.doctor.findings import Finding
from machine_memory.models import MachineRecord
from tests import servers
from tests.conftest import Worker, databases
from tests.contract.stores import DATABASES
from tests.database import pgbouncer
from tests.database.store import set_up
from tests.redis.server import RedisServer, programs
from tests.redis.store import RedisStore

ROOT = Path(__file__).parents[2]
REDIS = "machine_memory.backends.redis.RedisMachineMemory"
SIMPLE = "machine_memory.backends.simple.SimpleMachineMemory"
every_database = pytest.mark.parametrize("name", databases(forms=("",)))
on_sqlite = pytest.mark.django_db(transaction=True)


def on(name: str) -> pytest.MarkDecorator:
    """Return a parameter ``name`` for one database."""
    return pytest.mark.parametrize("name", databases(name, forms=("",)))


def examined(alias: str = "fast") -> dict[str, Finding]:
    return {finding.check: finding for finding in examine(alias)}


def levels(found: dict[str, Finding]) -> dict[str, str]:
    return {check: finding.level for check, finding in found.items() if finding.level != "ok"}


def database(alias: str, options: Any = None, **settings: Any) -> dict[str, Finding]:
    """Examine a memory in a database with these settings changed."""
    if options is not None:
        settings["OPTIONS"] = options if connections[alias].vendor == "sqlite" else {**servers.PATIENT, **options}
    with set_up(alias, **settings):
        return examined(alias)


def using(alias: str) -> Any:
    return {"fast": {"OPTIONS": {"using": alias}}}


def cache(location: str, **options: Any) -> Any:
    """Set up a memory on a cache with these options, and no other."""
    params = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": location, "OPTIONS": options}
    return override_settings(CACHES={"default": params}, MACHINE_MEMORIES={"fast": {"BACKEND": REDIS}})


@contextmanager
def executed(alias: str, statement: str, undo: str) -> Iterator[None]:
    with connections[alias].cursor() as cursor:
        cursor.execute(statement)
        try:
            yield
        finally:
            cursor.execute(undo)


class TestDatabase:
    @every_database
    def test_one_that_fits_is_all_right(self, name: str) -> None:
        found = examined(DATABASES[name])
        assert levels(found) == {}
        assert list(found)[:3] == ["settings", "connection", "clock"]
        assert list(found)[-4:] == ["routing", "migrations", "ids", "round trip"]
        assert re.fullmatch(r"(\w+ [\d.]+ ms, ){4}cleanup [\d.]+ ms\.", found["round trip"].text)

    @every_database
    def test_nothing_is_left_behind(self, name: str) -> None:
        Worker(memories[DATABASES[name]]).lock("a")
        examined(DATABASES[name])
        assert list(MachineRecord.objects.using(DATABASES[name]).values_list("pk", flat=True)) == ["a"]

    @every_database
    def test_one_that_is_not_there(self, name: str) -> None:
        nowhere = {"NAME": "/nowhere/at/all"} if name == "sqlite" else {"HOST": "127.0.0.1", "PORT": "1"}
        found = database(DATABASES[name], **nowhere, PASSWORD="secret")  # noqa: S106
        assert levels(found) == {"connection": "error"}
        assert list(found) == ["settings", "connection"]
        text = found["connection"].text
        place = "'/nowhere/at/all'" if name == "sqlite" else r"'\S+' at 127\.0\.0\.1:1"
        why = "unable to open database file" if name == "sqlite" else r".*127\.0\.0\.1.*"
        assert re.fullmatch(rf"The database {place} does not answer \(OperationalError\): {why}", text)

    @on("postgresql")
    def test_a_password_is_not_told_though_the_driver_should_do_so(self, name: str) -> None:
        text = database(name, USER="secret", PASSWORD="secret")["connection"].text  # noqa: S106
        assert 'role "***" does not exist' in text

    def test_one_without_a_backend(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(connections.settings, "other", {"ENGINE": "nowhere"})
        with override_settings(MACHINE_MEMORIES=using("other")):
            (finding,) = examine("fast")
        assert finding.level == "error"
        assert finding.text.startswith("'nowhere' isn't an available database backend")

    def test_one_that_is_not_configured(self) -> None:
        with override_settings(MACHINE_MEMORIES=using("nowhere")):
            (finding,) = examine("fast")
        assert finding.level == "error"
        assert finding.text.startswith("'nowhere' is not in DATABASES (")

    @on_sqlite
    def test_what_the_system_checks_say_is_in_it(self) -> None:
        found = database("default", ATOMIC_REQUESTS=True)
        assert levels(found) == {"settings": "warning"}
        assert found["settings"].text.endswith("(machine_memory.W201)")

    @on_sqlite
    def test_one_where_locks_are_refused(self) -> None:
        found = database("default", AUTOCOMMIT=False)
        assert levels(found) == {"settings": "error", "round trip": "error"}
        assert "inside an open transaction" in found["round trip"].text

    @on("mariadb")
    @pytest.mark.parametrize(
        ("shift", "level", "says"),
        [
            ("- 0.5", "ok", "that of this host"),
            ("- 5", "warning", "behind"),
            ("+ 5", "warning", "ahead of"),
            ("+ 60", "error", "ahead of"),
        ],
    )
    def test_a_clock_that_is_not_that_of_this_host(self, name: str, shift: str, level: str, says: str) -> None:
        found = database(name, {"init_command": f"SET timestamp = UNIX_TIMESTAMP(NOW(6)) {shift}"})
        assert found["clock"].level == level
        assert says in found["clock"].text

    @every_database
    def test_a_clock_of_this_host_that_is_wrong(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(findings, "host_time", lambda: time.time() - 10)
        assert levels(examined(DATABASES[name])) == {"clock": "warning"}

    @pytest.mark.parametrize("name", databases("postgresql", "mariadb", forms=("",)))
    def test_a_host_that_may_be_waited_for_for_minutes(self, name: str) -> None:
        with set_up(name, OPTIONS={}):
            found = examined(name)
        assert levels(found) == {"timeout": "warning"}
        assert f"set connect_timeout in the OPTIONS of '{name}'" in found["timeout"].text
        assert examined(name)["timeout"].text == "A new connection takes 10 s at most."

    def test_what_psycopg_2_knows_of_its_connection(self) -> None:
        info = SimpleNamespace(dsn_parameters={"connect_timeout": "7"})
        given = {"HOST": "db.example.com", "OPTIONS": {}}
        connection: Any = SimpleNamespace(
            vendor="postgresql", alias="x", settings_dict=given, connection=SimpleNamespace(info=info)
        )
        assert list(doctor.timeout(connection)) == [("ok", "A new connection takes 7 s at most.")]

    @on("postgresql")
    def test_commits_that_are_not_waited_for(self, name: str) -> None:
        found = database(name, {"options": "-c synchronous_commit=off"})
        assert levels(found) == {"replicas": "warning"}
        assert found["replicas"].text.startswith("synchronous_commit is off: ")

    @on("mariadb")
    def test_a_session_whose_time_is_not_utc(self, name: str) -> None:
        found = database(name, {"init_command": "SET time_zone = '+05:00'"})
        assert levels(found) == {"time zone": "warning"}
        assert found["time zone"].text.startswith("The session's time zone is '+05:00', +5 h from UTC: this memory")

    @on("mariadb")
    @pytest.mark.parametrize("level", ["repeatable read", "serializable"])
    def test_mariadb_above_read_committed(self, name: str, level: str) -> None:
        found = database(name, {"isolation_level": level})
        assert levels(found) == {"settings": "warning", "isolation": "warning"}
        assert found["isolation"].text.startswith(f"Transactions are {level}: ")

    @on("postgresql")
    @pytest.mark.parametrize("where", ["in the transactions of Django", "at the server"])
    def test_postgresql_above_read_committed(self, name: str, where: str) -> None:
        from psycopg import IsolationLevel

        options: Any = {
            "in the transactions of Django": {"isolation_level": IsolationLevel.SERIALIZABLE},
            "at the server": {"options": "-c default_transaction_isolation=serializable"},
        }
        found = database(name, options[where])
        assert levels(found) == {"isolation": "warning"}
        assert found["isolation"].text.startswith("Transactions are serializable: ")

    @on("mariadb")
    def test_mariadb_that_is_read_only(self, name: str) -> None:
        found = database(name, {"init_command": "SET SESSION TRANSACTION READ ONLY"})
        assert found["server"].level == "error"
        assert "(tx_read_only)" in found["server"].text or "(transaction_read_only)" in found["server"].text
        assert levels(found) == {"server": "error", "ids": "error", "round trip": "error"}

    @on("postgresql")
    def test_postgresql_that_is_read_only(self, name: str) -> None:
        found = database(name, {"options": "-c default_transaction_read_only=on"})
        assert "(transaction_read_only)" in found["server"].text
        assert levels(found) == {"server": "error", "ids": "error", "round trip": "error"}
        assert found["ids"].text == "The store failed to answer this (InternalError)."

    @on("mariadb")
    @pytest.mark.parametrize(
        ("collation", "merged"),
        [("general_ci", "case, a trailing space, an accent, the emoji"), ("bin", "a trailing space")],
    )
    def test_a_collation_that_merges_ids(self, name: str, collation: str, merged: str) -> None:
        column = "ALTER TABLE machine_memory_machinerecord MODIFY id varchar(512) NOT NULL COLLATE utf8mb4_"
        with executed(name, column + collation, column + "nopad_bin"):
            found = examined(name)
        assert levels(found) == {"ids": "error"}
        assert found["ids"].text.startswith(f"Ids that differ by {merged} are one machine here: ")
        assert not MachineRecord.objects.using(name).exists()

    @on_sqlite
    def test_a_journal_that_is_not_a_wal(self, tmp_path: Path) -> None:
        found = database("default", {"transaction_mode": "IMMEDIATE"}, NAME=tmp_path / "scratch.sqlite3")
        assert found["journal"].level == "warning"
        assert found["journal"].text.startswith("The journal mode is delete: ")

    @on_sqlite
    def test_transactions_of_sqlite_that_begin_as_readers(self) -> None:
        found = database("default", {})
        assert levels(found) == {"locking": "warning"}
        assert found["locking"].text.endswith("(machine_memory.W202)")

    @on("sqlite")
    def test_reads_that_routers_send_elsewhere(self, name: str) -> None:
        with override_settings(DATABASE_ROUTERS=["tests.doctor.test_doctor.Replica"]):
            found = examined(DATABASES[name])
        assert levels(found) == {"routing": "warning"}
        assert "alone, but the routers send other code that reads MachineRecord to 'replica'" in found["routing"].text

    @on("postgresql")
    def test_another_database_than_that_of_other_code_is_all_right(self, name: str) -> None:
        found = examined(name)
        assert found["routing"].level == "ok"
        assert found["routing"].text.endswith("other code that asks for MachineRecord to 'default'.")

    @every_database
    def test_a_migration_that_is_not_applied(self, name: str) -> None:
        recorder = MigrationRecorder(connections[DATABASES[name]])
        recorder.record_unapplied("machine_memory", "0001_initial")
        try:
            found = examined(DATABASES[name])
        finally:
            recorder.record_applied("machine_memory", "0001_initial")
        assert levels(found) == {"migrations": "error"}
        assert "0001_initial" in found["migrations"].text
        assert f"`manage.py migrate --database {DATABASES[name]}`" in found["migrations"].text

    @on_sqlite
    def test_tables_that_are_not_there(self, tmp_path: Path) -> None:
        found = database("default", NAME=tmp_path / "scratch.sqlite3")
        assert levels(found) == {"migrations": "error", "ids": "error", "round trip": "error"}
        assert found["round trip"].text.startswith("The store failed to lock 'machine_memory_doctor:")

    @on_sqlite
    def test_a_table_that_a_router_has_kept_out(self, tmp_path: Path) -> None:
        with set_up("default", NAME=tmp_path / "scratch.sqlite3"):
            with override_settings(DATABASE_ROUTERS=["tests.doctor.test_doctor.Nowhere"]):
                call_command("migrate", "machine_memory", verbosity=0)
            told = examined("default")["migrations"]
            assert told.level == "error"
            assert "there is no table machine_memory_machinerecord: a router kept it out" in told.text
            for command in re.findall("`manage.py migrate ([^`]+)`", told.text):
                call_command("migrate", *command.split(), verbosity=0)
            assert levels(examined("default")) == {}


@pytest.mark.skipif(not pgbouncer.PROGRAM, reason="there is no pgbouncer")
class TestPooler:
    @on("postgresql")
    @pytest.mark.parametrize("options", [{}, {"server_side_binding": True}])
    def test_statements_that_are_not_prepared_pass(self, name: str, options: Any) -> None:
        with pgbouncer.pooled(connections[name].settings_dict) as address:
            found = database(name, options, **address)
        assert levels(found) == {}
        assert found["pooler"].text.startswith("A pooler is in between, and no statement is prepared")

    @on("postgresql")
    def test_statements_that_are_prepared_may_not(self, name: str) -> None:
        with pgbouncer.pooled(connections[name].settings_dict) as address:
            found = database(name, {"prepare_threshold": 50}, **address)
        assert levels(found) == {"pooler": "warning"}

    @on("postgresql")
    def test_without_a_pooler_they_do(self, name: str) -> None:
        found = database(name, {"prepare_threshold": 1})
        assert levels(found) == {}
        assert found["pooler"].text == "No pooler is in between."


class TestRedis:
    def examined(self, location: str, **options: Any) -> dict[str, Finding]:
        with cache(location, **options):
            return examined()

    def test_one_that_fits_is_all_right(self) -> None:
        with RedisServer(programs()[-1], appendonly="yes") as server:
            found = self.examined(server.url, SOCKET_TIMEOUT=1)
            assert redis.Redis.from_url(server.url).dbsize() == 0
        assert levels(found) == {}
        assert list(found) == ["settings", "connection", "clock", "server", "cache", "index", "round trip"]
        assert found["server"].text == "Redis keeps an append-only file, and evicts nothing."
        assert found["cache"].text.endswith("the cache 'default' asks for nothing else.")

    def test_one_that_may_lose_machines(self) -> None:
        with RedisServer(programs()[-1], maxmemory_policy="allkeys-lru") as server, cache(server.url, SOCKET_TIMEOUT=1):
            found = [finding.text for finding in examine("fast") if finding.level == "warning"]
        assert [text[-6:] for text in found] == [".W102)", ".W103)"]

    def test_one_that_is_not_there(self) -> None:
        found = self.examined("redis://:secret@127.0.0.1:1/0", SOCKET_TIMEOUT=1)
        assert levels(found) == {"connection": "error"}
        assert list(found) == ["settings", "connection"]
        assert found["connection"].text.startswith("Redis at 127.0.0.1:1 does not answer (NotConnected): Error 111 ")

    def test_a_clock_of_this_host_that_is_wrong(self, redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(findings, "host_time", lambda: time.time() + 60)
        assert levels(examined(redis_store.alias))["clock"] == "error"

    def test_a_client_that_waits_for_ever(self) -> None:
        with RedisServer(programs()[-1], appendonly="yes") as server:
            found = self.examined(server.url, CONNECTION_POOL_KWARGS={"socket_timeout": None})
        assert levels(found) == {"settings": "warning"}
        assert found["settings"].text.endswith("(machine_memory.W101)")

    def test_what_of_the_cache_is_not_used_is_said(self) -> None:
        pool = {"retry_on_timeout": True, "socket_timeout": 1}
        serializer = "django_redis.serializers.json.JSONSerializer"
        with RedisServer(programs()[-1], appendonly="yes") as server:
            found = self.examined(server.url, SERIALIZER=serializer, CONNECTION_POOL_KWARGS=pool)
        assert levels(found) == {}
        assert found["cache"].text.endswith("of the cache 'default', SERIALIZER, retry_on_timeout is not used.")

    def test_a_client_of_ones_own_has_no_cache(self) -> None:
        assert list(doctor_of_redis.cache(None)) == [
            (
                "ok",
                "Each command makes one attempt, and values are JSON, whatever the client that was handed over does.",
            )
        ]


class Replica:
    """Sends reads to a database that lags."""

    def db_for_read(self, model: Any, **hints: Any) -> str:
        return "replica"


class Nowhere:
    """Keeps every table out."""

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
        return False


class Deaf(BaseMachineMemory):
    """Takes every lock for one that somebody else has."""

    class Store(SimpleStore):
        def acquire(self, *args: Any, **options: Any) -> None:
            return None

    def __init__(self, **options: Any) -> None:
        super().__init__(self.Store(), **options)


class TestInProcess:
    def test_it_is_not_for_production(self) -> None:
        with override_settings(MACHINE_MEMORIES={"fast": {"BACKEND": SIMPLE}}, DEBUG=False):
            found = examined()
        assert levels(found) == {"deployment": "warning"}
        assert found["deployment"].text.startswith("The memory is in this process alone")

    def test_it_is_for_development(self) -> None:
        with override_settings(MACHINE_MEMORIES={"fast": {"BACKEND": SIMPLE}}, DEBUG=True):
            assert levels(examined()) == {}
            assert memories["fast"].store._machines == {}  # type: ignore[attr-defined]

    def test_a_memory_that_grants_nothing(self) -> None:
        with override_settings(MACHINE_MEMORIES={"fast": {"BACKEND": "tests.doctor.test_doctor.Deaf"}}, DEBUG=True):
            found = examined()
        assert levels(found) == {"round trip": "error"}
        assert found["round trip"].text == "lock of a machine that nobody else knows did not do what it says."


class TestCommand:
    def run(self, *args: str) -> str:
        output = StringIO()
        call_command("machine_memory_doctor", *args, stdout=output, no_color=True)
        return output.getvalue()

    def failed(self, *args: str) -> tuple[str, int, str]:
        output = StringIO()
        with pytest.raises(CommandError) as failure:
            call_command("machine_memory_doctor", *args, stdout=output, no_color=True)
        return output.getvalue(), failure.value.returncode, str(failure.value)

    @on_sqlite
    def test_all_is_well(self) -> None:
        lines = self.run("--memory", "default").splitlines()
        assert lines[0] == "memory   check       level  text"
        assert lines[1] == "default  settings    ok     Nothing in the settings is against it."

    @override_settings(MACHINE_MEMORIES={"one": {"BACKEND": SIMPLE}, "two": {"BACKEND": "nowhere"}})
    def test_something_is_wrong(self) -> None:
        table, status, summary = self.failed()
        assert re.findall(r"^(\w+) +\S+ +error ", table, re.MULTILINE) == ["two"]
        assert (status, summary) == (1, "Errors: 1, warnings: 1.")

    @override_settings(MACHINE_MEMORIES={"one": {"BACKEND": SIMPLE}, "two": {"BACKEND": "nowhere"}})
    def test_there_are_warnings_alone(self) -> None:
        _, status, summary = self.failed("--memory", "one")
        assert (status, summary) == (3, "Errors: 0, warnings: 1.")

    @pytest.mark.parametrize("alias", ["nowhere", ""])
    def test_a_memory_that_is_not_configured(self, alias: str) -> None:
        table, status, _ = self.failed("--memory", alias)
        assert f"MACHINE_MEMORIES['{alias}'] is missing. Configured: 'default'" in table
        assert status == 1

    @override_settings(MACHINE_MEMORIES=[])
    def test_settings_that_are_no_memories(self) -> None:
        assert self.failed() == ("", 1, "MACHINE_MEMORIES must be a dict, not <list>.")

    @on_sqlite
    def test_the_json_is_the_table(self) -> None:
        header, *rows = (re.split(" {2,}", line, maxsplit=3) for line in self.run("--memory", "default").splitlines())
        listed = json.loads(self.run("--memory", "default", "--json"))
        assert [list(finding) for finding in listed] == [header] * len(rows)
        for finding, row in zip(listed, rows, strict=True):
            assert [re.sub(r"[\d.]+", "#", text) for text in finding.values()] == [
                re.sub(r"[\d.]+", "#", text) for text in row
            ]

    def test_levels_are_coloured(self) -> None:
        output = StringIO()
        with override_settings(MACHINE_MEMORIES={"one": {"BACKEND": SIMPLE}}), pytest.raises(CommandError):
            call_command("machine_memory_doctor", stdout=output, force_color=True)
        assert re.search(r"one     settings    \x1b\[32;1mok     \x1b\[0m  ", output.getvalue())

    def test_a_mistake_in_the_options_is_no_warning(self) -> None:
        command = [sys.executable, "manage.py", "machine_memory_doctor", "--jsno"]
        environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "example_project.settings"}
        done = subprocess.run(command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert (done.returncode, "unrecognized arguments: --jsno" in done.stderr) == (2, True)

    def test_the_status_is_that_of_the_process(self, tmp_path: Path) -> None:
        environment = {**os.environ, "EXAMPLE_DATABASE": str(tmp_path / "a"), "MEMORY": "database"}
        environment["DJANGO_SETTINGS_MODULE"] = "example_project.settings"
        command = [sys.executable, "manage.py", "machine_memory_doctor", "--json"]
        done = subprocess.run(command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stderr == "CommandError: Errors: 6, warnings: 0.\n"
        assert {finding["memory"] for finding in json.loads(done.stdout)} == {"default", "inbox"}

    def test_the_help_has_an_example(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            call_command("machine_memory_doctor", "--help")
        assert "Example: manage.py machine_memory_doctor --memory default --json" in capsys.readouterr().out
