"""What the system checks say, and when they are quiet."""

from typing import Any

import pytest
import redis
from django.core.checks import CheckMessage, run_checks
from django.test import override_settings

from machine_memory import RedisMachineMemory
from tests.redis_server import RedisServer, programs

REDIS = "machine_memory.backends.redis.RedisMachineMemory"


def messages(*, deploy: bool = False) -> dict[str, CheckMessage]:
    found = [message for message in run_checks(include_deployment_checks=deploy) if "machine_memory" in str(message.id)]
    return {str(message.id).removeprefix("machine_memory."): message for message in found}


def cache(location: Any = "redis://127.0.0.1", **options: Any) -> Any:
    """Set up a memory on a cache with these options, and no other."""
    params = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": location, "OPTIONS": options}
    return override_settings(CACHES={"default": params}, MACHINE_MEMORIES={"fast": {"BACKEND": REDIS}})


@pytest.mark.parametrize("settings", [[], {"fast": 5}, {"fast": {"BACKEND": "nowhere"}}, {"fast": {"LOCK_TTL": -1}}])
def test_settings_that_are_wrong(settings: Any) -> None:
    with override_settings(MACHINE_MEMORIES=settings):
        found = messages()
    assert list(found) == ["E001"]
    assert "MACHINE_MEMORIES" in found["E001"].msg
    assert found["E001"].hint == "Correct MACHINE_MEMORIES: see Settings in the README."


def test_a_cache_that_is_not_there() -> None:
    params = {"BACKEND": REDIS, "OPTIONS": {"cache": "nowhere"}}
    with override_settings(MACHINE_MEMORIES={"fast": params}):
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
        assert str(found["E101"]).startswith("MACHINE_MEMORIES['fast']: (machine_memory.E101) The cache 'default'")

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
        assert list(memory.check(deploy=False)) == []
