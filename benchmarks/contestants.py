"""This package as a contestant, and what it has in common with the others."""

from typing import Any, Protocol

from benchmarks.order import advance
from machine_memory import BaseMachineMemory

OURS = "machine_memory"
ORM_FORM = "machine_memory, ORM form"
PREPARED = "machine_memory, prepared"
VERBS = ("lock", "read", "write", "unlock")


class Verbs(Protocol):
    """What is timed. Each verb fails where it has not done what it is timed for."""

    name: str

    def cycle(self, id: str) -> None:
        """Take the lease, read the state, change it, write it and release."""

    def lock(self, id: str) -> None: ...

    def read(self, id: str) -> None: ...

    def write(self, id: str) -> None: ...

    def unlock(self, id: str) -> None: ...

    def denied_lock(self, id: str) -> None:
        """Try to lock what somebody else holds."""


class Memory:
    def __init__(self, memory: BaseMachineMemory, state: dict[str, Any], name: str = OURS) -> None:
        self.name = name
        self._memory = memory
        self._state = state

    def cycle(self, id: str) -> None:
        with self._memory.lease(id) as lease:
            state = lease.data
            advance(state)
            lease.commit(state)

    def lock(self, id: str) -> None:
        expect(self._memory.lock(id))

    def read(self, id: str) -> None:
        expect(self._memory.read(id))

    def write(self, id: str) -> None:
        self._memory.write(id, self._state)

    def unlock(self, id: str) -> None:
        expect(self._memory.unlock(id))

    def denied_lock(self, id: str) -> None:
        expect(not self._memory.lock(id))


def expect(outcome: object) -> None:
    if not outcome:
        raise RuntimeError("A contestant did not do what it is timed for.")
