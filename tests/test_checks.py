"""What the system checks say, and when they are quiet."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis
from django.core.checks import CheckMessage, run_checks
from django.test import override_settings

from machine_memory import RedisMachineMemory
from tests import servers
from tests.database.store import set_up
from tests.redis.server import RedisServer, programs

ROOT = Path(__file__).parents[1]
REDIS = "machine_memory.backends.redis.RedisMachineMemory"


def messages(*, deploy: bool = False) -> dict[str, CheckMessage]:
    # From Django 6.1 on, models are checked against every database where none is named.
    found = run_checks(include_deployment_checks=deploy, databases=[])
    found = [message for message in found if "machine_memory" in str(message.id)]
    return {str(message.id).removeprefix("machine_memory."): message for message in found}


def cache(location: Any = "redis://127.0.0.1", **options: Any) -> Any:
    """Set up a memory on a cache with these options, and no other."""
    params = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": location, "OPTIONS": options}
    return override_settings(CACHES={"default": params}, MACHINE_MEMORIES={"default": {"BACKEND": REDIS}})


def database(alias: str = "default", *, deploy: bool = False, **settings: Any) -> dict[str, CheckMessage]:
    """Return what is said of a memory in a database with these settings changed."""
    with set_up(alias, **settings), override_settings(MACHINE_MEMORIES={"default": using(alias)}):
        return messages(deploy=deploy)


def using(alias: str) -> Any:
    return {"OPTIONS": {"using": alias}}


def test_the_settings_of_the_tests_are_quiet() -> None:
    assert messages() == {}


@pytest.mark.parametrize("memory", ["database", "redis"])
def test_the_settings_of_the_example_are_quiet(memory: str) -> None:
    command = [sys.executable, "manage.py", "check", "--fail-level", "WARNING"]
    environment = {**os.environ, "MEMORY": memory, "DJANGO_SETTINGS_MODULE": "example_project.settings"}
    subprocess.run(command, check=True, cwd=ROOT, env=environment, capture_output=True)


@pytest.mark.parametrize(
    "settings",
    [[], *({"default": wrong} for wrong in (5, {"BACKEND": "nowhere"}, {"BACKEND": ".x"}, {"LOCK_TTL": -1}, {1: 2}))],
)
def test_settings_that_are_wrong(settings: Any) -> None:
    with override_settings(MACHINE_MEMORIES=settings):
        found = messages()
    assert list(found) == ["E001"]
    assert "MACHINE_MEMORIES" in found["E001"].msg
    assert found["E001"].hint == "Correct MACHINE_MEMORIES: see docs/reference/settings.md."


def test_an_alias_that_the_name_of_a_machine_may_end_with() -> None:
    with override_settings(MACHINE_MEMORIES={"default": {}, "a in memory default": {}}):
        found = messages()
    assert list(found) == ["E001"]
    assert "an alias must not have 'in memory' before another word" in found["E001"].msg


@pytest.mark.parametrize("deploy", [False, True])
def test_memories_none_of_which_is_the_default(deploy: bool) -> None:
    with override_settings(MACHINE_MEMORIES={"fast": {}}):
        found = messages(deploy=deploy)
    assert list(found) == ["W001"]
    assert found["W001"].msg == "MACHINE_MEMORIES has no 'default': whatever uses `memory` raises InvalidConfiguration."
    assert found["W001"].hint == "Name one of them 'default'; or use `memories[alias]` alone, and silence this."


def test_a_cache_that_is_not_there() -> None:
    params = {"BACKEND": REDIS, "OPTIONS": {"cache": "nowhere"}}
    with override_settings(MACHINE_MEMORIES={"default": params}):
        found = messages()
    assert "'nowhere' is not in CACHES" in found["E001"].msg


class TestRedis:
    def test_a_cache_that_fits_is_quiet(self) -> None:
        with cache(SOCKET_TIMEOUT=1):
            assert messages() == {}

    def test_a_cache_that_ignores_exceptions(self) -> None:
        with cache(IGNORE_EXCEPTIONS=True):
            found = messages()
        assert list(found) == ["E101"]
        assert str(found["E101"]).startswith("MACHINE_MEMORIES['default']: (machine_memory.E101) The cache 'default'")

    def test_all_caches_that_ignore_exceptions(self) -> None:
        with cache(), override_settings(DJANGO_REDIS_IGNORE_EXCEPTIONS=True):
            assert list(messages()) == ["E101"]
        with cache(IGNORE_EXCEPTIONS=False), override_settings(DJANGO_REDIS_IGNORE_EXCEPTIONS=True):
            assert messages() == {}

    @pytest.mark.parametrize("location", [["redis://a", "redis://b"], "redis://a,redis://b"])
    def test_a_cache_with_replicas(self, location: Any) -> None:
        with cache(location):
            assert list(messages()) == ["E102"]

    def test_a_client_that_waits_for_ever(self) -> None:
        pool = {"socket_timeout": None}
        with cache("redis://127.0.0.1/7", CONNECTION_POOL_KWARGS=pool):  # django-redis has one pool for each address.
            assert list(messages()) == ["W101"]

    def test_a_server_that_may_lose_machines(self) -> None:
        with RedisServer(programs()[-1], maxmemory_policy="allkeys-lru") as server, cache(server.url):
            found = messages(deploy=True)
            assert list(found) == ["W102", "W103"]
            assert "allkeys-lru" in found["W102"].msg
            assert messages() == {}

    def test_a_server_whose_disk_was_late(self, monkeypatch: pytest.MonkeyPatch) -> None:
        info = redis.Redis.info
        late = {"aof_delayed_fsync": 7, "redis_version": "5.0.14"}
        monkeypatch.setattr(redis.Redis, "info", lambda client: {**info(client), **late})
        with RedisServer(programs()[-1], appendonly="yes") as server, cache(server.url):
            found = messages(deploy=True)
        assert list(found) == ["W105", "W106"]
        assert "has waited 7 times for its disk" in found["W105"].msg
        assert "is of version 5.0.14" in found["W106"].msg

    def test_a_server_that_keeps_them_is_quiet(self) -> None:
        with RedisServer(programs()[-1], appendonly="yes") as server, cache(server.url):
            assert messages(deploy=True) == {}

    def test_a_server_that_does_not_say(self) -> None:
        with cache("redis://127.0.0.1:1"):
            found = messages(deploy=True)
        assert list(found) == ["W104"]
        assert "(NotConnected)" in found["W104"].msg

    def test_a_client_of_ones_own_has_no_cache_to_check(self) -> None:
        memory = RedisMachineMemory(client=redis.Redis(socket_timeout=1))
        assert list(memory.store.check(deploy=False)) == []


class TestDatabase:
    def test_a_database_that_fits_is_quiet(self) -> None:
        assert database() == {}

    def test_a_database_that_is_not_there(self) -> None:
        with override_settings(MACHINE_MEMORIES={"default": using("nowhere")}):
            found = messages()
        assert list(found) == ["E001"]
        assert found["E001"].msg.startswith("'nowhere' is not in DATABASES (default")

    def test_an_app_that_is_not_installed(self) -> None:
        # Then no check of it is registered either: the memory itself has to say so.
        code = (
            "import django; from django.conf import settings; settings.configure(); django.setup();"
            "from machine_memory import memory; memory.read('a')"
        )
        done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=ROOT)
        assert done.stderr.splitlines()[-1].startswith("machine_memory.exceptions.InvalidConfiguration: A memory in a")
        assert '"machine_memory" is not in INSTALLED_APPS: add it' in done.stderr

    def test_a_database_without_autocommit(self) -> None:
        assert list(database(AUTOCOMMIT=False)) == ["E201"]

    def test_a_database_with_a_transaction_around_each_request(self) -> None:
        found = database(ATOMIC_REQUESTS=True)
        assert list(found) == ["W201"]
        assert str(found["W201"]).startswith(
            "MACHINE_MEMORIES['default']: (machine_memory.W201) The database 'default'"
        )

    def test_a_database_that_keeps_no_machines_may_have_one(self) -> None:
        with set_up("default", ATOMIC_REQUESTS=True), override_settings(MACHINE_MEMORIES=TestInProcess.MEMORIES):
            assert messages() == {}

    @pytest.mark.parametrize("options", [{}, {"transaction_mode": None}, {"transaction_mode": "deferred"}])
    def test_sqlite_whose_transactions_begin_as_readers(self, options: Any) -> None:
        assert database(OPTIONS=options) == {}, "it would come before every command of a project that is new"
        assert list(database(deploy=True, OPTIONS=options)) == ["W202"]

    @pytest.mark.parametrize("mode", ["immediate", "EXCLUSIVE"])
    def test_sqlite_whose_transactions_begin_as_writers_is_quiet(self, mode: str) -> None:
        assert database(deploy=True, OPTIONS={"transaction_mode": mode}) == {}

    @pytest.mark.skipif("mariadb" in servers.missing, reason=str(servers.missing.get("mariadb")))
    @pytest.mark.parametrize(
        ("options", "ids"),
        [
            ({}, []),
            ({"isolation_level": "Read Committed"}, []),
            ({"isolation_level": "repeatable read"}, ["W203"]),
            ({"isolation_level": None}, ["W203"]),
        ],
    )
    def test_mariadb_by_its_isolation(self, options: Any, ids: list[str]) -> None:
        assert list(database("mariadb", OPTIONS=options)) == ids


class TestInProcess:
    MEMORIES = {"default": {"BACKEND": "machine_memory.backends.simple.SimpleMachineMemory"}}

    def test_it_is_not_for_production(self) -> None:
        with override_settings(MACHINE_MEMORIES=self.MEMORIES, DEBUG=False):
            assert list(messages(deploy=True)) == ["W301"]

    def test_it_is_for_development(self) -> None:
        with override_settings(MACHINE_MEMORIES=self.MEMORIES, DEBUG=True):
            assert messages(deploy=True) == {}

    def test_and_for_test_runs_where_debug_is_off(self) -> None:
        with override_settings(MACHINE_MEMORIES=self.MEMORIES, DEBUG=False):
            assert messages() == {}
