"""As PostGIS, django-prometheus and the instrumentations of OpenTelemetry have it."""

from typing import Any

from django.db.backends.mysql import base

from tests.database.engines.watching import WatchedCursor


class DatabaseWrapper(base.DatabaseWrapper):
    def create_cursor(self, name: Any = None) -> Any:
        return WatchedCursor(super().create_cursor(name), __name__)
