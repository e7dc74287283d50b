"""A Redis server that nobody else has keys in, as a look at one that others use ends amid theirs."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from django.conf import settings
from django.test import override_settings

from tests.redis.server import NoServer, RedisServer, programs

ALIAS = "of its own"
REDIS = {"BACKEND": "machine_memory.backends.redis.RedisMachineMemory", "OPTIONS": {"cache": ALIAS}}


@pytest.fixture(scope="session")
def redis_of_its_own() -> Iterator[RedisServer]:
    try:
        program = programs()[-1]
    except NoServer as error:
        pytest.skip(str(error))
    with RedisServer(program) as server:
        yield server


@pytest.fixture
def in_redis(redis_of_its_own: RedisServer) -> Iterator[Any]:
    """A client of that server, to which the cache ``ALIAS`` leads."""
    cache = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": redis_of_its_own.url}
    with (
        override_settings(CACHES={**settings.CACHES, ALIAS: cache}),
        redis.Redis.from_url(redis_of_its_own.url) as client,
    ):
        yield client
        client.flushdb()
