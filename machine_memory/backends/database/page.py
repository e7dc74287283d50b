"""The texts of ``sql`` with the names of the model, as each kind of database takes them."""

from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Model

from machine_memory.backends.database import claims, sql


class Page:
    """The texts of ``sql`` with the names of the model, as one kind of database takes them."""

    def __init__(
        self, kind: str, connection: BaseDatabaseWrapper, model: type[Model], without_waiting: str = sql.WITHOUT_WAITING
    ) -> None:
        self.vendor = connection.vendor
        self.machines: Any = model._default_manager
        quote = connection.ops.quote_name
        self._names = {
            **{field.name: quote(str(field.column)) for field in model._meta.concrete_fields},
            "table": quote(model._meta.db_table),
            "now": sql.NOW[self.vendor],
            "lease_start": sql.LEASE_START[self.vendor],
            "lease_end": sql.LEASE_END[self.vendor].format("%(ttl)s"),
            "later": sql.LATER[self.vendor].format("%(wakes)s"),
            "moment": sql.MOMENT[self.vendor].format("%(wakes)s"),
            "fence_clock": sql.FENCE_CLOCK[self.vendor].format("%(microseconds)s"),
            "first_fence": sql.FIRST_FENCE[self.vendor].format("%(microseconds)s"),
            "greatest": "MAX" if self.vendor == "sqlite" else "GREATEST",
            "bound_wait": sql.BOUND_WAIT,
            "bound": "bound",
            "in_order": "",
            "of_asked": "",
            # What an insert would have put there, as many rows have many tokens.
            "token": f"excluded.{quote('lease_token')}" if kind == "sqlite" else "%(token)s",
            "without_waiting": without_waiting,
            # Where the server binds parameters, each has one type: that of the first place where it stands.
            "text": "::text" if kind == "postgresql" else "",
            "texts": "::text[]",
            "json": "%(data)s::json" if kind == "postgresql" else "%(data)s",
            "unless_present": "" if kind == "mariadb" else "WHERE TRUE ON CONFLICT DO NOTHING",
        }
        self._names["seconds_left"] = sql.SECONDS_LEFT[self.vendor].format(self._names["lease_expires_at"])
        self._names["root_of_ancestor"] = self._fill(sql.ROOT_OF_ANCESTOR[kind])
        for name, fragment in sql.FRAGMENTS.items():
            self._names[name] = self._fill(fragment)
        self._fill_one(kind)
        self._fill_each(kind)
        self._fill_claims(kind)
        self._writes: dict[tuple[bool, int | None, bool, bool, str], str] = {}
        self._writes_each: dict[tuple[bool, bool, bool, str], str] = {}

    def _fill_one(self, kind: str) -> None:
        self.read = self._fill(sql.READ)
        self.acquire = self._fill(sql.ACQUIRE[kind])
        self.insert_lease = self._fill(sql.INSERT_LEASE) if kind == "postgresql" else None
        self.granted = self._fill(sql.GRANTED)
        self.renew = self._fill(sql.RENEW)
        self.resume = self._fill(sql.RESUME)
        self.release = self._fill(sql.RELEASE)
        self.standing = self._fill(sql.STANDING)
        self.write_first = {name: self._fill(sql.WRITE_FIRST, wakes=self._names[name]) for name in ("later", "moment")}
        # MariaDB's UPDATE returns no row, but the number that it is told to remember.
        self.returns = kind != "mariadb"
        self.extend = self._fill(sql.EXTEND) if self.returns else None
        self.renew_each = self._fill(sql.RENEW_EACH[kind]) if kind in sql.RENEW_EACH else None

    def _fill_each(self, kind: str) -> None:
        asked, in_order = _asked_rows(kind), "ORDER BY asked_id"
        self._names |= {"asked": asked, "asked_with_states": _asked_rows(kind, sql.ASKED_STATES)}
        of_asked = f"FROM {asked} {in_order if kind == 'mariadb' else ''}"  # SQLite has one writer at a time.
        self.acquire_each = self._each(sql.ACQUIRE_EACH[kind], of_asked=of_asked)
        self.insert_lease_each = self._each(sql.INSERT_LEASE, bound=f"bound, {asked}", in_order=in_order)
        self._write_each = sql.WRITE_EACH[kind]
        self.mine = self._each(sql.MINE, guard=self._fill(sql.GUARD_EACH))

    def _fill_claims(self, kind: str) -> None:
        common, choices = claims.names(kind, self.vendor, self._names), dict(claims.choices(self._names))

        def filled(text: str | None) -> dict[tuple[bool, bool], str]:
            return {key: self._fill(text, **common, **more) for key, more in choices.items()} if text else {}

        self.claims = filled(sql.CLAIM if kind == "postgresql" else None)
        self.waiting = filled(sql.WAITING)
        self.keep_due, self.keep_due_by_key = filled(sql.KEEP_DUE.get(kind)), filled(sql.KEEP_DUE_BY_KEY.get(kind))
        self.take_due = self._fill(sql.TAKE_DUE[kind], **common) if kind in sql.TAKE_DUE else ""

    def write(
        self, token: str | None, expected_version: int | None, release: bool, *, extends: bool = False, timer: str = ""
    ) -> str:
        version = expected_version and 1  # Whichever it is, it was written before.
        key = (token is None, version, release, extends, timer)
        if key not in self._writes:
            changes = self._fill(
                sql.CHANGES,
                ancestry="" if version else self._fill(sql.ANCESTRY, seen=self._names["version"]),
                lease_change=self._lease_change(release, extends),
                timer=self._timer(timer),
                next_version=self._fill("{version} + 1" if self.returns else "LAST_INSERT_ID({version} + 1)"),
            )
            self._writes[key] = self._fill(
                sql.WRITE,
                changes=changes,
                guard=self._names["open" if token is None else "mine"]
                + ("" if version is None else self._fill(" AND {version} = %(expected_version)s")),
                returning_version=self._fill("RETURNING {version}" if self.returns else ""),
            )
        return self._writes[key]

    def write_each(self, release: bool, *, extends: bool, first: bool, timer: str = "") -> str:
        key = (release, extends, first, timer)
        if key not in self._writes_each:
            changes = self._fill(
                sql.CHANGES,
                ancestry=self._fill(sql.ANCESTRY, seen="asked_version") if first else "",
                lease_change=self._lease_change(release, extends),
                timer=self._timer(timer),
                next_version="asked_version + 1",
            )
            guard = self._fill(sql.GUARD_EACH)
            self._writes_each[key] = self._each(self._write_each, changes=changes, guard=guard)
        return self._writes_each[key]

    def _each(self, text: str, **more: str) -> str:
        """Return a statement for many, with columns of what is asked in the place of the parameters of one."""
        filled = self._fill(text, **more)
        for name in sql.ASKED:
            filled = filled.replace(f"%({name})s", f"asked_{name}")
        return filled

    def _lease_change(self, release: bool, extends: bool) -> str:
        if release:
            return self._names["no_lease"] + ","
        return self._fill("{lease_expires_at} = {lease_end},") if extends else ""

    def _timer(self, name: str) -> str:
        return f"{self._names['wake_at']} = {self._names[name]}," if name else ""

    def _fill(self, text: str, **more: str) -> str:
        return " ".join(text.format(**{**self._names, **more}).split())


def _asked_rows(kind: str, states: str = "") -> str:
    types, column = sql.ASKED_TYPES[kind], sql.ASKED_COLUMN[kind]
    typed = {name: types.get(name, types[""]) for name in sql.ASKED}
    columns = (column.format(name=name, type=type) for name, type in typed.items() if type or kind == "sqlite")
    return sql.ASKED_ROWS[kind].format(columns=", ".join(columns), states=states)
