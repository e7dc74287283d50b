"""Locks on Redis, and a value beside them."""

import json
from collections.abc import Iterable
from importlib import import_module
from typing import Any

from benchmarks import redis_store
from benchmarks.contestants import expect
from benchmarks.order import advance
from benchmarks.peers.base import TTL, Peer


class RedisLock(Peer):
    """redis-py's own lock, and a value beside it."""

    name = "redis-py Lock, get and set"
    guard = "no"

    def __init__(self, alias: str, state: dict[str, Any], ids: Iterable[str]) -> None:
        self._client: Any = redis_store.client()
        for id in ids:
            self._client.set(self._key(id), json.dumps(state))

    def cycle(self, id: str) -> None:
        lock = self._lock(id)
        expect(lock.acquire(blocking=False))
        state = json.loads(self._client.get(self._key(id)))
        advance(state)
        self._client.set(self._key(id), json.dumps(state))
        lock.release()

    def close(self) -> None:
        self._client.close()

    def _lock(self, id: str) -> Any:
        return self._client.lock(f"{redis_store.PREFIX}lock:{id}", timeout=TTL)

    def _key(self, id: str) -> str:
        return f"{redis_store.PREFIX}{type(self).__name__}:{id}"


class PythonRedisLock(RedisLock):
    """python-redis-lock, likewise."""

    name = "python-redis-lock, get and set"

    def __init__(self, alias: str, state: dict[str, Any], ids: Iterable[str]) -> None:
        self._module = import_module("redis_lock")
        super().__init__(alias, state, ids)

    def _lock(self, id: str) -> Any:
        return self._module.Lock(self._client, f"{redis_store.PREFIX}{id}", expire=TTL)
