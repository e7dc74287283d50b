"""The store's time as expressions of the ORM, and times as they come back."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.sql.compiler import SQLCompiler
from django.utils import timezone

from machine_memory.backends.database import sql
from machine_memory.core.records import MOST_DOUBLINGS, Keep, WakeAt

Compiled = tuple[str, tuple[Any, ...]]

OFFSET: dict[str, Callable[[float], Any]] = {
    "postgresql": float,
    "mysql": lambda seconds: round(seconds * 1_000_000),
    "sqlite": lambda seconds: f"{-(round(-seconds * 1_000_000) // 1000) / 1000:+.3f} seconds",
}
"""Seconds as the parameter of ``sql.LATER``; never fewer."""


class StoreTime(models.Func):
    """The database's own time in UTC at this statement, ``offset`` seconds later. Never Django's ``Now()``: see sql."""

    output_field = models.DateTimeField()
    now, later = sql.NOW, sql.LATER

    def __init__(self, offset: float = 0.0) -> None:
        self.offset = offset
        super().__init__()

    def as_sql(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, *args: Any, **context: Any) -> Compiled:
        vendor = connection.vendor
        if not self.offset:
            return self.now[vendor], ()
        return self.later[vendor].format("%s"), (OFFSET[vendor](self.offset),)


class LeaseTime(StoreTime):
    """As ``StoreTime``, and never earlier: when a lease begins and, ``offset`` seconds later, ends."""

    now, later = sql.LEASE_START, sql.LEASE_END


class SecondsLeft(models.Func):
    """Seconds until the time of a column, by the database's own; never more."""

    output_field = models.FloatField()

    def as_sql(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, *args: Any, **context: Any) -> Any:
        (column,) = self.get_source_expressions()
        text, params = compiler.compile(column)
        return sql.SECONDS_LEFT[connection.vendor].format(text), params


class Doubled(LeaseTime):
    """As ``LeaseTime``, and twice as much later with each claim before this one."""

    def as_sql(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, *args: Any, **context: Any) -> Compiled:
        vendor = connection.vendor
        attempts = connection.ops.quote_name("attempts")
        return doubled(vendor, "%s", attempts), (doubled_offset(vendor, self.offset),)


class Moment(models.Func):
    """A time of the caller's."""

    output_field = models.DateTimeField()

    def __init__(self, value: datetime | None) -> None:
        self.value = value
        super().__init__()

    def as_sql(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, *args: Any, **context: Any) -> Compiled:
        return sql.MOMENT[connection.vendor].format("%s"), (moment(self.value),)


def waking(wake_at: timedelta | datetime | None) -> models.Func:
    """Return when a machine is due as an expression."""
    return StoreTime(wake_at.total_seconds()) if isinstance(wake_at, timedelta) else Moment(wake_at)


def moment(value: datetime | None) -> str | None:
    """Return a time in UTC as the parameter of ``sql.MOMENT``."""
    return value.strftime("%Y-%m-%d %H:%M:%S.%f") if value else None


def timer(wake_at: WakeAt, vendor: str) -> tuple[str, Any]:
    """Return which text sets it, "later" or "moment" or none at all, and the parameter of that."""
    if isinstance(wake_at, timedelta):
        return "later", OFFSET[vendor](wake_at.total_seconds())
    return ("", None) if isinstance(wake_at, Keep) else ("moment", moment(wake_at))


def doubled(vendor: str, parameter: str, attempts: str) -> str:
    """Return ``sql.LEASE_END`` with the delay of ``sql.DOUBLED``."""
    delay = sql.DOUBLED[vendor].format(parameter, attempts=attempts, most=MOST_DOUBLINGS)
    return sql.LEASE_END[vendor].format(delay)


def doubled_offset(vendor: str, seconds: float) -> Any:
    """Return the parameter of ``sql.DOUBLED``."""
    return seconds if vendor == "sqlite" else OFFSET[vendor](seconds)


def as_utc(value: datetime, connection: BaseDatabaseWrapper) -> datetime:
    """Return a column's time in UTC, whatever ``USE_TZ`` and ``TIME_ZONE`` made of it on the way."""
    if connection.vendor != "postgresql":
        return value.replace(tzinfo=UTC)
    if timezone.is_naive(value):
        # Without USE_TZ its sessions have the zone of the settings, whichever one is active in this thread.
        value = timezone.make_aware(value, connection.timezone or timezone.get_default_timezone())
    return value.astimezone(UTC)
