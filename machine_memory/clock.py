"""The store's time and fences as expressions of the ORM, and times as they come back."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from math import ceil
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
    # Up to the next millisecond, see sql.GRANTED_AT; into the past, as it is.
    "sqlite": lambda seconds: f"{(ceil(seconds * 1000) + 1) / 1000 if seconds > 0 else seconds:+.3f} seconds",
}
"""Seconds as the parameter of ``sql.LATER``."""


class StoreTime(models.Func):
    """The database's own time in UTC at this statement, ``offset`` seconds later. Never Django's ``Now()``: see sql."""

    output_field = models.DateTimeField()

    def __init__(self, offset: float = 0.0) -> None:
        self.offset = offset
        super().__init__()

    def as_sql(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, *args: Any, **context: Any) -> Compiled:
        vendor = connection.vendor
        if not self.offset:
            return sql.NOW[vendor], ()
        return sql.LATER[vendor].format("%s"), (OFFSET[vendor](self.offset),)


class GrantTime(StoreTime):
    """The time at which a lease begins."""

    def as_sql(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, *args: Any, **context: Any) -> Compiled:
        return sql.GRANTED_AT[connection.vendor], ()


class FenceClock(models.Func):
    """The time behind which no fence falls."""

    output_field = models.BigIntegerField()

    def as_sql(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, *args: Any, **context: Any) -> Compiled:
        if connection.vendor == "sqlite":
            return sql.FENCE_CLOCK["sqlite"].format("%s"), (host_microseconds(),)
        return sql.FENCE_CLOCK[connection.vendor], ()


def host_microseconds() -> int:
    """Return the parameter of SQLite's ``sql.FENCE_CLOCK``."""
    return time.time_ns() // 1000


def as_utc(value: datetime, connection: BaseDatabaseWrapper) -> datetime:
    """Return a column's time in UTC, whatever ``USE_TZ`` and ``TIME_ZONE`` made of it on the way."""
    if connection.vendor != "postgresql":
        return value.replace(tzinfo=UTC)
    if timezone.is_naive(value):
        value = timezone.make_aware(value, connection.timezone or timezone.get_default_timezone())
    return value.astimezone(UTC)
