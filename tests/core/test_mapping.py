"""A mapping that hands out copies, as a file or a server does, keeps every promise."""

import json
import threading
from collections.abc import Iterator, MutableMapping
from dataclasses import asdict
from typing import Any

from machine_memory.core.kept import Kept
from machine_memory.core.mapping import MappingStore
from machine_memory.core.memory import BaseMachineMemory
from machine_memory.testing import Clock
from machine_memory.testing.contract import StoreContract


class Texts(MutableMapping[str, Kept]):
    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def __getitem__(self, id: str) -> Kept:
        return Kept.from_dict(json.loads(self._texts[id]))

    def __setitem__(self, id: str, machine: Kept) -> None:
        self._texts[id] = json.dumps(asdict(machine))

    def __delitem__(self, id: str) -> None:
        del self._texts[id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)


class TestAMappingOfTexts(StoreContract):
    def make_memory(self, **options: Any) -> BaseMachineMemory:
        self.clock = Clock()
        return BaseMachineMemory(MappingStore(Texts(), threading.Lock(), self.clock), **options)

    def expire(self, memory: BaseMachineMemory, id: str) -> None:
        self.clock.advance(self.brief)

    def test_a_lease_that_is_attached_for_longer_lasts_so_long(self) -> None:
        memory, id = self.make_memory(), self.new_id()
        with memory.lease(id, ttl=10) as lease:
            text = lease.detach()
        with memory.attach(text, ttl=60):
            self.clock.advance(50)
            assert memory.holder(id) is not None

    def test_a_purge_ends_the_expired_lease_of_a_machine_with_state(self) -> None:
        memory, id = self.make_memory(), self.new_id()
        memory.write(id, {})
        memory.lock(id, ttl=10)
        self.clock.advance(10)
        assert memory.purge_expired_locks().cleared == 1
        assert memory.purge_expired_locks().cleared == 0
