"""The databases under test."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connections
from django.db.utils import load_backend
from django.test.utils import CaptureQueriesContext

from machine_memory import BaseMachineMemory, DatabaseMachineMemory
from machine_memory.backends.database.clock import StoreTime
from machine_memory.backends.database.queries import MachineQuerySet
from machine_memory.models import MachineRecord
from tests.contract.stores import DATABASES, ORM, ServerStore, Store
from tests.proxy import COMMIT, STATEMENT, Proxy, proxied


@contextmanager
def set_up(alias: str, **settings: Any) -> Iterator[None]:
    """Set up a database with these settings changed, on another connection."""
    kept = connections[alias]
    changed = {**kept.settings_dict, **settings}
    connections[alias] = load_backend(changed["ENGINE"]).DatabaseWrapper(changed, alias)
    try:
        yield
    finally:
        connections[alias].close()
        connections[alias] = kept


class DatabaseStore(ServerStore):
    question = b"SELECT"
    no_answer = "OperationalError"

    def __init__(self, name: str) -> None:
        self.one_statement = not name.endswith(ORM) and name != "mysql"  # Which has no other form.
        name = name.removesuffix(ORM)
        self.alias = DATABASES.get(name, name)
        super().__init__(name)

    def new_memory(self, **options: Any) -> DatabaseMachineMemory:
        return DatabaseMachineMemory(using=self.alias, one_statement=self.one_statement, **options)

    def expire(self, id: str, *, ago: float = 0.0) -> None:
        assert self.rows.filter(pk=id).update(lease_expires_at=StoreTime(-ago)) == 1

    def age(self, id: str, seconds: float) -> None:
        assert self.rows.filter(pk=id).update(written_at=StoreTime(-seconds)) == 1

    def lease_of(self, id: str) -> tuple[str, float] | None:
        row = self.rows.filter(pk=id, lease_token__isnull=False).values_list("lease_token", "lease_expires_at").first()
        return row and (row[0], row[1].timestamp())

    def count(self) -> int:
        return int(self.rows.count())

    @contextmanager
    def asked(self) -> Iterator[list[str]]:
        questions: list[str] = []
        with CaptureQueriesContext(connections[self.alias]) as queries:
            yield questions
        questions.extend(query["sql"] for query in queries)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(MachineQuerySet, "held", lambda rows: rows.filter(lease_expires_at__isnull=False))
            yield

    def close(self) -> None:
        if connections[self.alias].errors_occurred:
            connections[self.alias].close()

    @property
    def decisive(self) -> bytes:
        return STATEMENT if self.one_statement else COMMIT[self.name]

    @contextmanager
    def through_proxy(self) -> Iterator[tuple[BaseMachineMemory, Proxy]]:
        with proxied(self.alias) as (alias, proxy):
            yield DatabaseMachineMemory(using=alias, one_statement=self.one_statement), proxy

    def hang_up(self, memory: BaseMachineMemory) -> None:
        memory.store.close()

    @property
    def steps(self) -> Any:
        store: Any = self.memory.store
        return store._steps(connections[self.alias])

    @property
    def rows(self) -> Any:
        return MachineRecord.objects.using(self.alias)


STORES: dict[str, type[Store]] = {
    "mysql": DatabaseStore,
    **{name + form: DatabaseStore for name in DATABASES for form in ("", ORM)},
}
