"""By hand in one process: a dict and a mutex."""

import json
import secrets
import threading
import time
from typing import Any

from benchmarks.contestants import expect
from benchmarks.order import advance
from benchmarks.raw import RAW, TTL, encode


class RawDict:
    name = RAW

    def __init__(self, state: dict[str, Any]) -> None:
        self._state = state
        self._mutex = threading.Lock()
        self._machines: dict[str, tuple[str, int]] = {}
        self._leases: dict[str, tuple[str, float]] = {}
        self._token = ""

    def put(self, id: str) -> None:
        self._machines[id] = (encode(self._state), 1)

    def cycle(self, id: str) -> None:
        self.lock(id)
        state = json.loads(self._machines[id][0])
        advance(state)
        self._save(id, state, release=True)

    def lock(self, id: str) -> None:
        expect(self._take(id))

    def read(self, id: str) -> None:
        with self._mutex:
            text, _ = self._machines[id]
        expect(json.loads(text))

    def write(self, id: str) -> None:
        self._save(id, self._state)

    def unlock(self, id: str) -> None:
        with self._mutex:
            expect(self._leases.pop(id)[0] == self._token)

    def denied_lock(self, id: str) -> None:
        expect(not self._take(id))

    def _take(self, id: str) -> bool:
        token = secrets.token_hex(16)
        with self._mutex:
            _, expires_at = self._leases.get(id, ("", 0.0))
            if expires_at > time.monotonic():
                return False
            self._leases[id] = (token, time.monotonic() + TTL)
            self._token = token
            return True

    def _save(self, id: str, state: dict[str, Any], *, release: bool = False) -> None:
        text = encode(state)
        with self._mutex:
            token, expires_at = self._leases[id]
            expect(token == self._token and expires_at > time.monotonic())
            self._machines[id] = (text, self._machines[id][1] + 1)
            if release:
                del self._leases[id]
