"""The store's time as expressions of the ORM, and times as they come back."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.sql.compiler import SQLCompiler
from django.utils import timezone

from machine_memory import sql

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


def as_utc(value: datetime, connection: BaseDatabaseWrapper) -> datetime:
    """Return a column's time in UTC, whatever ``USE_TZ`` and ``TIME_ZONE`` made of it on the way."""
    if connection.vendor != "postgresql":
        return value.replace(tzinfo=UTC)
    if timezone.is_naive(value):
        value = timezone.make_aware(value, connection.timezone)
    return value.astimezone(UTC)
