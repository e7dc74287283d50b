"""As CockroachDB's, and YugabyteDB's."""

from django.db.backends.postgresql import base


class DatabaseWrapper(base.DatabaseWrapper):
    vendor = "cockroachdb"
    display_name = "CockroachDB"
