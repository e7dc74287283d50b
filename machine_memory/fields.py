"""Columns and indexes that mean the same on every database."""

from typing import Any

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.backends.ddl_references import Statement
from django.db.models.fields.json import KeyTransform
from django.db.models.sql.compiler import SQLCompiler

from machine_memory import sql
from machine_memory.encoding import decode, encoded


class ExactCharField(models.CharField):  # type: ignore[type-arg]  # It cannot be subscripted at run time.
    """Text that is compared exactly: case, accents, trailing spaces and emoji are distinct.

    The default collations of MySQL and MariaDB merge them. PostgreSQL's "C" also finds a prefix by the primary key.
    """

    def db_type(self, connection: BaseDatabaseWrapper) -> str:
        # By its long name: for "varchar" Django adds an index of its own on PostgreSQL and a warning on MySQL.
        return f"character varying({self.max_length})"

    def db_parameters(self, connection: BaseDatabaseWrapper) -> dict[str, Any]:
        collation = {"postgresql": "C", "mysql": "utf8mb4_0900_bin"}.get(connection.vendor)
        if getattr(connection, "mysql_is_mariadb", False):
            collation = "utf8mb4_nopad_bin"
        return {**super().db_parameters(connection), "collation": collation}


class DataField(models.JSONField):
    """JSON that comes back as it was written, to the order of its keys and the spelling of its numbers.

    On PostgreSQL it is ``json``, which is text: ``jsonb`` sorts keys and rewrites numbers.
    """

    def db_type(self, connection: BaseDatabaseWrapper) -> str | None:
        return "json" if connection.vendor == "postgresql" else super().db_type(connection)

    def select_format(self, compiler: SQLCompiler, sql: str, params: Any) -> Any:
        # As text, or the driver would read it in its own way.
        return (f"({sql})::text" if compiler.connection.vendor == "postgresql" else sql), params

    def from_db_value(self, value: Any, expression: Any, connection: BaseDatabaseWrapper) -> Any:
        if isinstance(expression, KeyTransform):
            return super().from_db_value(value, expression, connection)
        return decode(value)

    def get_db_prep_value(self, value: Any, connection: BaseDatabaseWrapper, prepared: bool = False) -> Any:
        if isinstance(value, models.Value) and isinstance(value.output_field, models.JSONField):
            value = value.value
        return value if hasattr(value, "as_sql") else encoded(value)


class StoredBytes(models.Func):
    """How many bytes a column of JSON has as text."""

    output_field = models.BigIntegerField()

    def as_sql(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, *args: Any, **context: Any) -> Any:
        (column,) = self.get_source_expressions()
        text, params = compiler.compile(column)
        return sql.STORED_BYTES[connection.vendor].format(text), params


class PartialIndex(models.Index):
    """An index of the rows that match ``where``, or of all rows on a database that has only those."""

    def __init__(self, *expressions: Any, where: models.Q, **options: Any) -> None:
        self.where = where
        super().__init__(*expressions, **options)

    def deconstruct(self) -> tuple[str, Any, dict[str, Any]]:
        path, expressions, options = super().deconstruct()
        return path, expressions, {**options, "where": self.where}

    def create_sql(
        self, model: type[models.Model], schema_editor: BaseDatabaseSchemaEditor, using: str = "", **kwargs: Any
    ) -> Statement:
        # Not `condition` from the start: Django then warns on every database that would ignore it.
        supported = schema_editor.connection.features.supports_partial_indexes
        index = models.Index(fields=self.fields, name=self.name, condition=self.where if supported else None)
        return index.create_sql(model, schema_editor, using, **kwargs)
