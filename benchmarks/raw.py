"""The raw drivers: the statements of this package by hand, on connections with the same settings."""

import json
import re
import secrets
import sqlite3
import time
from abc import ABC, abstractmethod
from typing import Any

from django.db import connections

from benchmarks.contestants import expect
from benchmarks.order import advance
from machine_memory.clock import OFFSET
from machine_memory.statements import Page

RAW = "raw driver"
PREPARED = "raw driver, prepared"
TTL = 120
OWNER = "host:1:MainThread"
LABELS = {"status": "packed", "source": None, "initiator": None, "parent": None}


class RawDriver(ABC):
    """A cursor, the same text, JSON in and out, a fresh token each time; nothing else."""

    def __init__(self, alias: str, kind: str, state: dict[str, Any], name: str = RAW) -> None:
        self.name = name
        connection = connections[alias]
        self._page = Page(kind, connection)
        self._connection = self._connect(connection.get_connection_params(), connection.settings_dict["OPTIONS"])
        self._common = {"owner": OWNER, "trace": None, "ttl": OFFSET[self._page.vendor](TTL), **LABELS}
        self._state = state
        self._token = ""
        self._acquire = self._text(self._page.acquire)
        self._insert_lease = self._text(self._page.insert_lease or "")
        self._read = self._text(self._page.read)
        self._release = self._text(self._page.release)
        self._write = self._text(self._page.write("", None, False))
        self._commit = self._text(self._page.write("", 1, True))

    def cycle(self, id: str) -> None:
        token, row = self._take(id)
        expect(row and row[0] == token)
        _, text, version, *_ = row
        state = json.loads(text)
        advance(state)
        self._save(self._commit, id, token, state, version)

    def lock(self, id: str) -> None:
        self._token, row = self._take(id)
        expect(row and row[0] == self._token)

    def read(self, id: str) -> None:
        expect(json.loads(self._row(self._read, {"id": id})[0]))

    def write(self, id: str) -> None:
        self._save(self._write, id, self._token, self._state, None)

    def unlock(self, id: str) -> None:
        expect(self._count(self._release, {"id": id, "token": self._token}))

    def denied_lock(self, id: str) -> None:
        token, row = self._take(id)
        expect(row is None or row[0] != token)

    def close(self) -> None:
        self._connection.close()

    def _take(self, id: str) -> tuple[str, Any]:
        token = secrets.token_hex(16)
        params = {**self._common, "id": id, "token": token, "microseconds": time.time_ns() // 1000}
        row = self._row(self._acquire, params)
        if row is None and self._insert_lease:
            row = self._row(self._insert_lease, params)
        return token, row

    def _save(self, text: str, id: str, token: str, state: dict[str, Any], version: int | None) -> None:
        params = {"id": id, "token": token, "data": encode(state), "expected_version": version, **self._common}
        expect(self._row(text, params) if self._page.returns else self._count(text, params))

    def _text(self, text: str) -> str:
        return text

    @abstractmethod
    def _connect(self, params: dict[str, Any], options: dict[str, Any]) -> Any: ...

    def _row(self, text: str, params: dict[str, Any]) -> Any:
        return self._connection.execute(text, params).fetchone()

    def _count(self, text: str, params: dict[str, Any]) -> int:
        return int(self._connection.execute(text, params).rowcount)


class RawPostgreSQL(RawDriver):
    """``prepared``: as psycopg does by default; else as it must be behind PgBouncer."""

    def __init__(self, alias: str, state: dict[str, Any], *, prepared: bool = False) -> None:
        self._prepared = prepared
        super().__init__(alias, "postgresql", state, PREPARED if prepared else RAW)

    def _connect(self, params: dict[str, Any], options: dict[str, Any]) -> Any:
        import psycopg  # noqa: PLC0415  # It may be missing, and then nothing here is used.

        names = ("host", "port", "user", "password", "dbname", "options", "sslmode")
        params = {name: params[name] for name in names if params.get(name)}
        connection = psycopg.connect(**params, autocommit=True)
        if not self._prepared:
            connection.prepare_threshold = None
        return connection


class RawSQLite(RawDriver):
    def __init__(self, alias: str, state: dict[str, Any]) -> None:
        super().__init__(alias, "sqlite", state)

    def _connect(self, params: dict[str, Any], options: dict[str, Any]) -> Any:
        connection = sqlite3.connect(params["database"], isolation_level=None, timeout=params["timeout"])
        connection.executescript(f"PRAGMA foreign_keys = ON; {options['init_command']}")
        return connection

    def _text(self, text: str) -> str:
        return re.sub(r"%\((\w+)\)s", r":\1", text).replace("%%", "%")


class RawMariaDB(RawDriver):
    def __init__(self, alias: str, state: dict[str, Any]) -> None:
        super().__init__(alias, "mariadb", state)

    def _connect(self, params: dict[str, Any], options: dict[str, Any]) -> Any:
        import MySQLdb  # noqa: PLC0415  # As above.

        connection = MySQLdb.connect(**params, autocommit=True)
        connection.query("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        return connection

    def _row(self, text: str, params: dict[str, Any]) -> Any:
        with self._connection.cursor() as cursor:
            cursor.execute(text, params)
            return cursor.fetchone()

    def _count(self, text: str, params: dict[str, Any]) -> int:
        with self._connection.cursor() as cursor:
            return int(cursor.execute(text, params))


def encode(state: dict[str, Any]) -> str:
    return json.dumps(state, ensure_ascii=False, separators=(",", ":"))


def drivers(alias: str, state: dict[str, Any]) -> list[RawDriver]:
    match connections[alias].vendor:
        case "postgresql":
            return [RawPostgreSQL(alias, state), RawPostgreSQL(alias, state, prepared=True)]
        case "sqlite":
            return [RawSQLite(alias, state)]
    return [RawMariaDB(alias, state)]
