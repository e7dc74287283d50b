"""Columns and indexes that mean the same on every database."""

from collections.abc import Callable
from typing import Any

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.backends.ddl_references import Statement
from django.db.models.functions import Cast
from django.db.models.sql.compiler import SQLCompiler

from machine_memory.backends.database import sql
from machine_memory.core.encoding import as_json, decode
from machine_memory.core.records import EncodedData


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


class CompactJSONField(models.JSONField):
    """JSON that is sent as it would be stored."""

    def get_db_prep_value(self, value: Any, connection: BaseDatabaseWrapper, prepared: bool = False) -> str:
        return value if isinstance(value, EncodedData) else as_json(value)


class StateField(CompactJSONField):
    """JSON that comes back as it went in, to the order of keys and the spelling of each number.

    PostgreSQL's "jsonb" and MySQL's "json" sort keys and write numbers anew. Queries look into the state all the same:
    it is converted where they do, for each row that they look at.
    """

    def db_type(self, connection: BaseDatabaseWrapper) -> str | None:
        if connection.vendor == "mysql" and not getattr(connection, "mysql_is_mariadb", False):
            return "longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"  # What MariaDB means by "json".
        return "json" if connection.vendor == "postgresql" else super().db_type(connection)

    def select_format(self, compiler: SQLCompiler, sql: str, params: Any) -> Any:
        # The drivers parse "json" themselves, each in its way.
        return (f"{sql}::text" if compiler.connection.vendor == "postgresql" else sql), params

    def from_db_value(self, value: Any, expression: Any, connection: BaseDatabaseWrapper) -> Any:
        return decode(value) if isinstance(value, str) else value

    def get_lookup(self, lookup_name: str) -> Any:
        lookup = super().get_lookup(lookup_name)
        return lookup if lookup is None or lookup_name == "isnull" else _converted(lookup)

    def get_transform(self, lookup_name: str) -> Any:
        return _converted(super().get_transform(lookup_name))


def _converted(factory: Callable[..., Any]) -> Callable[..., Any]:
    return lambda state, *args, **options: factory(Cast(state, CompactJSONField()), *args, **options)


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
