"""The steps that are taken most, in one statement each: what the QuerySet's forms of them do, at the driver's speed."""

import json
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from django.db import IntegrityError
from django.db.backends.base.base import BaseDatabaseWrapper

from machine_memory import sql
from machine_memory.clock import OFFSET
from machine_memory.contention import bounded_wait
from machine_memory.encoding import decode
from machine_memory.fences import host_microseconds
from machine_memory.models import MachineRecord
from machine_memory.records import Change, EncodedData, Grant

_pages: dict[str, "Page"] = {}


class Page:
    """The texts of ``sql`` with the names of the model, as one kind of database takes them."""

    def __init__(self, kind: str, connection: BaseDatabaseWrapper) -> None:
        self.vendor = connection.vendor
        quote = connection.ops.quote_name
        self._names = {
            **{field.name: quote(str(field.column)) for field in MachineRecord._meta.concrete_fields},
            "table": quote(MachineRecord._meta.db_table),
            "now": sql.NOW[self.vendor],
            "lease_start": sql.LEASE_START[self.vendor],
            "lease_end": sql.LEASE_END[self.vendor].format("%(ttl)s"),
            "fence_clock": sql.FENCE_CLOCK[self.vendor].format("%(microseconds)s"),
            "first_fence": sql.FIRST_FENCE[self.vendor].format("%(microseconds)s"),
            "greatest": "MAX" if self.vendor == "sqlite" else "GREATEST",
            "bound_wait": sql.BOUND_WAIT,
            "without_waiting": sql.WITHOUT_WAITING,
            # Where the server binds parameters, each has one type: that of the first place where it stands.
            "text": "::text" if kind == "postgresql" else "",
            "texts": "::text[]",
            "json": "%(data)s::json" if kind == "postgresql" else "%(data)s",
            "unless_present": "" if kind == "mariadb" else "WHERE TRUE ON CONFLICT DO NOTHING",
        }
        for name, fragment in sql.FRAGMENTS.items():
            self._names[name] = self._fill(fragment)
        self.read = self._fill(sql.READ)
        self.acquire = self._fill(sql.ACQUIRE[kind])
        self.insert_lease = self._fill(sql.INSERT_LEASE) if kind == "postgresql" else None
        self.granted = self._fill(sql.GRANTED)
        self.renew = self._fill(sql.RENEW)
        self.release = self._fill(sql.RELEASE)
        self.standing = self._fill(sql.STANDING)
        self.write_first = self._fill(sql.WRITE_FIRST)
        # MariaDB's UPDATE returns no row, but the number that it is told to remember.
        self.returns = kind != "mariadb"
        self.renew_each = self._fill(sql.RENEW_EACH[kind]) if kind in sql.RENEW_EACH else None
        self._writes: dict[tuple[bool, int | None, bool, bool], str] = {}

    def write(self, token: str | None, expected_version: int | None, release: bool, *, extends: bool = False) -> str:
        version = expected_version and 1  # Whichever it is, it was written before.
        key = (token is None, version, release, extends)
        if key not in self._writes:
            self._writes[key] = self._fill(
                sql.WRITE,
                ancestry="" if version else self._fill(sql.ANCESTRY),
                lease_change=self._lease_change(release, extends),
                guard=self._names["open" if token is None else "mine"]
                + ("" if version is None else self._fill(" AND {version} = %(expected_version)s")),
                next_version=self._fill("{version} + 1" if self.returns else "LAST_INSERT_ID({version} + 1)"),
                returning_version=self._fill("RETURNING {version}" if self.returns else ""),
            )
        return self._writes[key]

    def _lease_change(self, release: bool, extends: bool) -> str:
        if release:
            return self._names["no_lease"] + ","
        return self._fill("{lease_expires_at} = {lease_end},") if extends else ""

    def _fill(self, text: str, **more: str) -> str:
        return " ".join(text.format(**self._names, **more).split())


def statements(connection: BaseDatabaseWrapper) -> "MachineStatements | None":
    """Return the one-statement forms for a connection; ``None``: its database has none."""
    kind = connection.vendor
    if kind == "mysql" and getattr(connection, "mysql_is_mariadb", False):
        kind = "mariadb"
    if kind not in sql.ACQUIRE or not connection.features.can_return_columns_from_insert:
        return None
    if kind not in _pages:
        _pages[kind] = Page(kind, connection)
    return MachineStatements(connection, _pages[kind])


class MachineStatements:
    """The steps of ``MachineQuerySet`` by the same names, on one connection."""

    def __init__(self, connection: BaseDatabaseWrapper, page: Page) -> None:
        self._connection = connection
        self._page = page

    def state(self, id: str) -> object:
        row = self._row(self._page.read, {"id": id})
        return decode(row[0]) if row else None

    def acquire(self, id: str, *, token: str, owner: str, ttl: float, trace: str | None) -> Grant | None:
        page = self._page
        params = {"id": id, "token": token, "owner": owner, "ttl": OFFSET[page.vendor](ttl), "trace": trace}
        if page.vendor == "sqlite":
            params["microseconds"] = host_microseconds()
        with bounded_wait(self._connection) if page.vendor == "sqlite" else nullcontext():
            row = self._row(page.acquire, params)
            if row is None and page.insert_lease:
                row = self._row(page.insert_lease, params)
        return _grant(row, token)

    def granted(self, id: str, *, token: str) -> Grant | None:
        return _grant(self._row(self._page.granted, {"id": id, "token": token}), token)

    def renew(self, id: str, *, token: str, ttl: float) -> bool:
        params = {"id": id, "token": token, "ttl": OFFSET[self._page.vendor](ttl)}
        return self._count(self._page.renew, params) == 1

    def renew_each(self, ids: Mapping[str, str], *, ttl: float) -> set[str]:
        text, vendor = self._page.renew_each, self._page.vendor
        if text is None:
            return MachineRecord.objects.using(self._connection.alias).renew_each(ids, ttl=ttl)
        lists = list(ids.values()), list(ids)
        asked, tokens = lists if vendor == "postgresql" else map(json.dumps, lists)
        with self._connection.cursor() as cursor:
            cursor.execute(text, {"ids": asked, "tokens": tokens, "ttl": OFFSET[vendor](ttl)})
            return {token for (token,) in cursor.fetchall()}

    def release(self, id: str, *, token: str) -> bool:
        return self._count(self._page.release, {"id": id, "token": token}) == 1

    def write(self, change: Change) -> int | None:
        params, extends = _columns(change), change.extend is not None
        if change.extend is not None:
            params["ttl"] = OFFSET[self._page.vendor](change.extend)
        text = self._page.write(change.token, change.expected_version, change.release, extends=extends)
        with self._connection.cursor() as cursor:
            cursor.execute(text, params)
            if not self._page.returns:
                return int(cursor.lastrowid) if cursor.rowcount else None
            row = cursor.fetchone()
            return int(row[0]) if row else None

    def write_first(self, change: Change) -> bool:
        try:
            return self._count(self._page.write_first, _columns(change) | {"microseconds": host_microseconds()}) == 1
        except IntegrityError:
            if self.standing(change.id) is None:
                raise
            return False

    def standing(self, id: str) -> tuple[str | None, int] | None:
        row: tuple[str | None, int] | None = self._row(self._page.standing, {"id": id})
        return row

    def _row(self, text: str, params: dict[str, Any]) -> Any:
        with self._connection.cursor() as cursor:
            cursor.execute(text, params)
            return cursor.fetchone()

    def _count(self, text: str, params: dict[str, Any]) -> int:
        with self._connection.cursor() as cursor:
            cursor.execute(text, params)
            return int(cursor.rowcount)


def _grant(row: Any, token: str) -> Grant | None:
    if row is None or row[0] != token:
        return None
    _, data, version, fence, evicted = row
    return Grant(None if data is None else EncodedData(data), version, fence, evicted)


def _columns(change: Change) -> dict[str, Any]:
    return {
        "id": change.id,
        "data": change.data,
        "token": change.token,
        "expected_version": change.expected_version,
        "status": change.metadata.status,
        "source": change.metadata.source,
        "initiator": change.metadata.initiator,
        "parent": change.metadata.parent,
    }
