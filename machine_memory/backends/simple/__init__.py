"""The store in this process, and all that only it knows: for development and tests."""

from collections.abc import Callable, Mapping
from typing import Any

from machine_memory.backends.simple.store import SimpleStore, steady_time
from machine_memory.core.memory import BaseMachineMemory

__all__ = ["SimpleMachineMemory", "SimpleStore"]


class SimpleMachineMemory(BaseMachineMemory[Mapping[str, Any]]):
    """Keep machines in this object alone; ``clock`` tells its time in seconds, and tests may move it."""

    def __init__(self, *, clock: Callable[[], float] = steady_time, **options: Any) -> None:
        super().__init__(SimpleStore(clock), **options)
