"""The steps that are taken most, in one statement each: what the QuerySet's forms of them do, at the driver's speed."""

from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from django.db import IntegrityError, OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Model

from machine_memory.backends.database import claims, sql
from machine_memory.backends.database.clock import OFFSET, doubled_offset, timer
from machine_memory.backends.database.contention import bounded_wait, is_contention, of_cluster
from machine_memory.backends.database.fences import host_microseconds
from machine_memory.backends.database.page import Page
from machine_memory.backends.database.queries import MachineQuerySet
from machine_memory.backends.database.transactions import Atomic
from machine_memory.core.encoding import as_json, as_stored, decode
from machine_memory.core.records import Change, Claim, Claimed, Grant, Resumption

_pages: dict[tuple[str, str], Page] = {}


def statements(connection: BaseDatabaseWrapper, model: type[Model]) -> "MachineStatements | None":
    """Return the one-statement forms for a connection; ``None``: its database has none."""
    kind, cluster, without_waiting = connection.vendor, dict[str, str](), sql.WITHOUT_WAITING
    if kind == "mysql" and getattr(connection, "mysql_is_mariadb", False):
        kind, cluster = "mariadb", of_cluster(connection)
        without_waiting = sql.ONCE if cluster else sql.WITHOUT_WAITING
    if kind not in sql.ACQUIRE or not connection.features.can_return_columns_from_insert:
        return None
    if (kind, without_waiting) not in _pages:
        _pages[kind, without_waiting] = Page(kind, connection, model, without_waiting)
    return MachineStatements(connection, _pages[kind, without_waiting], is_node=cluster.get("wsrep_on") == "ON")


class MachineStatements:
    """The steps of ``MachineQuerySet`` by the same names, on one connection."""

    def __init__(self, connection: BaseDatabaseWrapper, page: Page, *, is_node: bool = False) -> None:
        self._connection = connection
        self._page = page
        self._is_node = is_node
        self._roots: dict[str, str] = {}

    def state(self, id: str) -> object:
        row = self._row(self._page.read, {"id": id})
        return decode(row[0]) if row else None

    def acquire(self, id: str, *, token: str, owner: str, ttl: float, trace: str | None) -> Grant | None:
        page, params = self._page, {"id": id, "token": token, **self._lease_params(owner, ttl, trace)}
        with bounded_wait(self._connection) if page.vendor == "sqlite" else nullcontext():
            row = self._row(page.acquire, params)
            if row is None and page.insert_lease:
                row = self._row(page.insert_lease, params)
        return _grant(row, token)

    def acquire_each(self, asked: Mapping[str, str], *, owner: str, ttl: float, trace: str | None) -> dict[str, Grant]:
        """Grant leases of what can be had, and return them by their tokens; asked are ids by their tokens, sorted."""
        if not self._takes_many:
            return self._machines.acquire_each(asked, owner=owner, ttl=ttl, trace=trace)
        page, common = self._page, self._lease_params(owner, ttl, trace)
        with bounded_wait(self._connection) if page.vendor == "sqlite" else nullcontext():
            granted = self._grants(page.acquire_each, asked, common)
            rest = {token: id for token, id in asked.items() if token not in granted}
            if page.insert_lease and rest:
                try:
                    granted |= self._grants(page.insert_lease_each, rest, common)
                except OperationalError as error:
                    if not is_contention(error):
                        raise
                    # Somebody inserts one of them just now: nobody else's is to be waited for, or denied, for that.
                    granted |= self._inserted_one_by_one(
                        page.insert_lease, rest, {**common, "wait": sql.WAITS["batch"]}
                    )
        return granted

    def _inserted_one_by_one(self, text: str, asked: Mapping[str, str], common: dict[str, Any]) -> dict[str, Grant]:
        granted = {}
        for token, id in asked.items():
            try:
                row = self._row(text, {"id": id, "token": token, **common})
            except OperationalError as error:
                if not is_contention(error):
                    raise
            else:
                if grant := _grant(row, token):
                    granted[token] = grant
        return granted

    def _grants(self, text: str, asked: Mapping[str, str], common: dict[str, Any]) -> dict[str, Grant]:
        rows = as_json([{"asked_id": id, "asked_token": token} for token, id in asked.items()])
        # A node that has to apply anew what changed some of the rows, and kept others, ends an answer with rows as if
        # there were none: it is to end the commit so.
        alone = Atomic(self._connection.alias, savepoint=False) if self._is_node else nullcontext()
        with alone:
            found = self._rows(text, {"asked": rows, **common})[-len(asked) :]  # As for one: see ``_row``.
        return {row[0]: grant for row in found if row[0] in asked and (grant := _grant(row, row[0]))}

    def _lease_params(self, owner: str, ttl: float, trace: str | None) -> dict[str, Any]:
        params = {"owner": owner, "trace": trace, "ttl": OFFSET[self._page.vendor](ttl)}
        # Each parameter costs every cycle, used or not.
        if self._page.vendor == "sqlite":
            params["microseconds"] = host_microseconds()
        elif self._page.vendor == "postgresql":
            params["wait"] = sql.WAITS["lock"]
        return params

    def claim(self, claim: Claim, pending: dict[str, str]) -> list[Claimed]:
        if not self._takes_many:
            return claims.in_transaction(self._machines, claim, pending)
        page, key = self._page, (claim.expired, claim.status is not None)
        params = {"limit": claim.limit, "max_attempts": claim.max_attempts, "status": claim.status}
        params |= {"secret": claim.secret, "again": doubled_offset(page.vendor, claim.ttl)}
        params |= self._lease_params(claim.owner, claim.ttl, claim.trace)
        if page.claims:
            pending |= {claim.token(number): "" for number in range(claim.limit)}
            return [claims.claimed(row, self._connection) for row in sorted(self._rows(page.claims[key], params))]
        waiting = [id for (id,) in self._rows(page.waiting[key], params)]
        if not waiting:  # Nobody is to wait for a poll that finds nothing.
            return []
        with self._machines.keeping(briefly=True):
            rows = self._rows(*self._of(page.keep_due_by_key[key], waiting, params)) if page.keep_due_by_key else []
            if len(rows) < len(waiting):
                rows = self._rows(page.keep_due[key], params)
            found = {claim.token(number): row for number, row in enumerate(rows)}
            if found:
                pending |= {token: id for token, (id, *_) in found.items()}
                *_, params["seen_at"], _, _, params["microseconds"] = rows[0]
                self._count(*self._of(page.take_due, [id for id, *_ in rows], params))
        return [claims.taken(row, token, self._connection) for token, row in found.items()]

    def _of(self, text: str, ids: list[str], params: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return a statement of a claim, and its parameters, for machines of these ids."""
        if self._page.vendor == "sqlite":
            return text, {**params, "ids": as_json(ids)}
        each = {f"id_{number}": id for number, id in enumerate(ids)}
        return text.replace("due_ids", ", ".join(f"%({name})s" for name in each)), {**params, **each}

    def granted(self, id: str, *, token: str) -> Grant | None:
        return _grant(self._row(self._page.granted, {"id": id, "token": token}), token)

    def resume(self, id: str, *, token: str, ttl: float | None) -> Resumption | None:
        page, params = self._page, {"id": id, "token": token}
        if ttl is None:
            row = self._row(page.resume, params)
        elif page.extend is not None:
            row = self._row(page.extend, {**params, "ttl": OFFSET[page.vendor](ttl)})
        else:
            extended: Resumption | None = page.machines.using(self._connection.alias).resume(id, token=token, ttl=ttl)
            return extended
        if row is None:
            return None
        data, version, fence, owner, left = row
        return Resumption(as_stored(data), version, fence, owner=owner, left=float(left))

    def renew(self, id: str, *, token: str, ttl: float) -> bool:
        params = {"id": id, "token": token, "ttl": OFFSET[self._page.vendor](ttl)}
        return self._count(self._page.renew, params) == 1

    def renew_each(self, ids: Mapping[str, str], *, ttl: float) -> set[str]:
        text, vendor = self._page.renew_each, self._page.vendor
        if text is None:
            return self._machines.renew_each(ids, ttl=ttl)
        lists = list(ids.values()), list(ids)
        asked, tokens = lists if vendor == "postgresql" else map(as_json, lists)
        params = {"ids": asked, "tokens": tokens, "ttl": OFFSET[vendor](ttl)}
        return {token for (token,) in self._rows(text, params)}

    def release(self, id: str, *, token: str) -> bool:
        return self._count(self._page.release, {"id": id, "token": token}) == 1

    def write(self, change: Change) -> int | None:
        (change,) = self._rooted([change])
        params, extends = _columns(change), change.extend is not None
        if change.extend is not None:
            params["ttl"] = OFFSET[self._page.vendor](change.extend)
        timing, wakes = timer(change.wake_at, self._page.vendor)
        if timing:
            params["wakes"] = wakes
        text = self._page.write(change.token, change.expected_version, change.release, extends=extends, timer=timing)
        with self._connection.cursor() as cursor:
            cursor.execute(text, params)
            if not self._page.returns:
                return int(cursor.lastrowid) if cursor.rowcount else None
            row = cursor.fetchone()
            return int(row[0]) if row else None

    def write_each(self, changes: Collection[Change]) -> set[str]:
        """Write what the lease and the version of each open, and return the ids of those."""
        if not self._takes_many:
            return self._machines.write_each(changes)
        page, changes = self._page, self._rooted(changes)
        alike = changes[0]
        timing, wakes = timer(alike.wake_at, page.vendor)
        params: dict[str, Any] = {"wakes": wakes}
        if alike.extend is not None:
            params["ttl"] = OFFSET[page.vendor](alike.extend)
        first = any(change.expected_version == 0 for change in changes)
        text = page.write_each(alike.release, extends=alike.extend is not None, first=first, timer=timing)
        if page.returns:
            return {id for (id,) in self._rows(text, {**params, **self._asked(changes)})}
        with Atomic(self._connection.alias):
            mine = {id for (id,) in self._rows(page.mine, self._asked(changes))}
            if some := [change for change in changes if change.id in mine]:
                data = {f"data_{number}": change.data for number, change in enumerate(some)}
                text = text.replace("asked_data", sql.DATA_OF_ROW.format(", ".join(f"%({name})s" for name in data)))
                self._count(text, {**params, **data, **self._asked(some)})
        return mine

    def _rooted(self, changes: Collection[Change]) -> list[Change]:
        """Return the changes, on MariaDB with the roots of their ancestors in the place of these; see sql."""
        ancestors = {change.ancestor for change in changes if change.ancestor and not change.expected_version}
        if self._page.returns or not ancestors:
            return list(changes)
        if absent := ancestors - self._roots.keys():
            found = dict(self._machines.filter(pk__in=absent).values_list("pk", "root"))
            self._roots |= {id: found.get(id) or id for id in absent}
        return [
            replace(change, ancestor=self._roots[change.ancestor]) if change.ancestor in ancestors else change
            for change in changes
        ]

    def _asked(self, changes: Collection[Change]) -> dict[str, str]:
        """Return the parameters that say what is asked: in JSON, and on PostgreSQL the states beside it."""
        vendor, rows = self._page.vendor, []
        names = {name: f"asked_{name}" for name in sql.ASKED if name != "data" or vendor == "sqlite"}
        for change in changes:
            columns = {**_columns(change), "version": change.expected_version}
            rows.append({key: columns[name] for name, key in names.items() if columns[name] is not None})
        asked = {"asked": as_json(rows)}
        if vendor == "postgresql":
            asked["states"] = f"[{','.join(change.data for change in changes)}]"
        return asked

    def write_first(self, change: Change) -> bool:
        (change,) = self._rooted([change])
        timing, wakes = timer(change.wake_at, self._page.vendor)
        params = {**_columns(change), "microseconds": host_microseconds(), "wakes": wakes}
        try:
            return self._count(self._page.write_first[timing or "moment"], params) == 1
        except IntegrityError:
            if self.standing(change.id) is None:
                raise
            return False

    def standing(self, id: str) -> tuple[str | None, int] | None:
        row: tuple[str | None, int] | None = self._row(self._page.standing, {"id": id})
        return row

    @property
    def _takes_many(self) -> bool:
        """Whether a statement can be for many: MariaDB knows JSON_TABLE from 10.6 on."""
        return self._page.returns or getattr(self._connection, "mysql_version", ()) >= (10, 6)

    @property
    def _machines(self) -> MachineQuerySet:
        machines: MachineQuerySet = self._page.machines.using(self._connection.alias)
        return machines

    def _row(self, text: str, params: dict[str, Any]) -> Any:
        with self._connection.cursor() as cursor:
            cursor.execute(text, params)
            rows = cursor.fetchall()
            # Should a node of a cluster repeat a statement, the rows of the attempt that was undone come first.
            return rows[-1] if rows else None

    def _rows(self, text: str, params: dict[str, Any]) -> list[Any]:
        with self._connection.cursor() as cursor:
            cursor.execute(text, params)
            return list(cursor.fetchall())

    def _count(self, text: str, params: dict[str, Any]) -> int:
        with self._connection.cursor() as cursor:
            cursor.execute(text, params)
            return int(cursor.rowcount)


def _grant(row: Any, token: str) -> Grant | None:
    if row is None or row[0] != token:
        return None
    _, data, version, fence, evicted = row
    return Grant(as_stored(data), version, fence, evicted)


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
        "ancestor": change.ancestor,
    }
