"""Every store of the package keeps the contract that other stores are asked to keep."""

from collections.abc import Iterator
from typing import Any

import pytest

from machine_memory import BaseMachineMemory
from machine_memory.testing.contract import StoreContract
from tests.conftest import _store, databases, redis_servers
from tests.contract.stores import Store


@pytest.fixture(params=["simple", *databases(forms=("",)), *redis_servers("redis", "redis cluster")], name="store")
def _each_store(request: pytest.FixtureRequest) -> Iterator[Store]:
    yield from _store(request)


class TestStores(StoreContract):
    @pytest.fixture(autouse=True)
    def _on(self, store: Store) -> None:
        self.store = store

    def make_memory(self, **options: Any) -> BaseMachineMemory:
        return self.store.new_memory(**options)

    def expire(self, memory: BaseMachineMemory, id: str) -> None:
        if self.store.name == "simple":
            self.store.passed(self.brief)
        else:
            super().expire(memory, id)
