"""The raw driver of Redis: the scripts of this package by hand, through redis-py's own client."""

import json
import secrets
from typing import Any

from benchmarks import redis_store
from benchmarks.contestants import expect
from benchmarks.order import advance
from benchmarks.raw import LABELS, OWNER, RAW, TTL, encode
from machine_memory import lua
from machine_memory.backends.redis_hashes import NAMESPACE


class RawRedis:
    name = RAW

    def __init__(self, state: dict[str, Any]) -> None:
        self._state = state
        self._client = redis_store.client()
        self._token = ""
        for script in (lua.ACQUIRE, lua.WRITE, lua.RELEASE):
            self._client.script_load(script.text)

    def cycle(self, id: str) -> None:
        token, row = self._take(id)
        text, version, *_ = row
        state = json.loads(text)
        advance(state)
        self._save(id, token, state, version, release=True)

    def lock(self, id: str) -> None:
        self._token, row = self._take(id)
        expect(row)

    def read(self, id: str) -> None:
        text: Any = self._client.hget(_key(id), "data")
        expect(json.loads(text))

    def write(self, id: str) -> None:
        self._save(id, self._token, self._state)

    def unlock(self, id: str) -> None:
        expect(self._run(lua.RELEASE, id, self._token))

    def denied_lock(self, id: str) -> None:
        expect(not self._take(id)[1])

    def close(self) -> None:
        self._client.close()

    def _take(self, id: str) -> tuple[str, Any]:
        token = secrets.token_hex(16)
        return token, self._run(lua.ACQUIRE, id, token, OWNER, TTL * 1_000_000, "")

    def _save(
        self, id: str, token: str, state: dict[str, Any], version: int | None = None, *, release: bool = False
    ) -> None:
        labels = [label or "" for label in LABELS.values()]
        given = (version or "", "1" if release else "", "", encode(state), *labels, "" if version else id)
        done, _, _ = self._run(lua.WRITE, id, token, *given)
        expect(done)

    def _run(self, script: lua.Script, id: str, *given: str | int) -> Any:
        return self._client.evalsha(script.digest, 1, _key(id), *given)


def _key(id: str) -> str:
    return f"{redis_store.PREFIX}{NAMESPACE}{id}"
