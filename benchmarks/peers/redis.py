"""Locks on Redis, and a value beside them."""

import json
import os
from collections.abc import Iterable
from importlib import import_module
from typing import Any

from benchmarks.contestants import expect
from benchmarks.order import advance
from benchmarks.peers.base import TTL, Peer

KEY = "machine-memory-bench"


class RedisLock(Peer):
    """redis-py's own lock, and a value beside it."""

    name = "redis-py Lock, get and set"
    guard = "no"

    def __init__(self, alias: str, state: dict[str, Any], ids: Iterable[str]) -> None:
        self._client = redis_client()
        self._ids = list(ids)
        for id in self._ids:
            self._client.set(self._key(id), json.dumps(state))

    def cycle(self, id: str) -> None:
        lock = self._lock(id)
        expect(lock.acquire(blocking=False))
        state = json.loads(self._client.get(self._key(id)))
        advance(state)
        self._client.set(self._key(id), json.dumps(state))
        lock.release()

    def close(self) -> None:
        self._client.delete(*map(self._key, self._ids))
        self._client.close()

    def _lock(self, id: str) -> Any:
        return self._client.lock(f"{KEY}:lock:{id}", timeout=TTL)

    def _key(self, id: str) -> str:
        return f"{KEY}:{type(self).__name__}:{id}"


class PythonRedisLock(RedisLock):
    """python-redis-lock, likewise."""

    name = "python-redis-lock, get and set"

    def __init__(self, alias: str, state: dict[str, Any], ids: Iterable[str]) -> None:
        self._module = import_module("redis_lock")
        super().__init__(alias, state, ids)

    def _lock(self, id: str) -> Any:
        return self._module.Lock(self._client, f"{KEY}:{id}", expire=TTL)


def redis_client() -> Any:
    """Return a client that has been answered; raises ``ImportError`` or ``ConnectionError``."""
    url = os.environ.get("MACHINE_MEMORY_REDIS", "redis://127.0.0.1:6379/0")
    redis = import_module("redis")
    client = redis.Redis.from_url(url, socket_connect_timeout=2)
    try:
        client.ping()
    except redis.RedisError as error:
        raise ConnectionError(f"no Redis server answers ({error})") from error
    return client
