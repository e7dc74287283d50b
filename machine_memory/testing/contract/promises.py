"""What the contracts share: how a memory is made, how a lease runs out, and how a broken promise is told."""

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

from machine_memory.core.memory import BaseMachineMemory
from machine_memory.exceptions import MachineMemoryError

T = TypeVar("T")
Memory = BaseMachineMemory[Any, Any, Any]
MARGIN = 0.01
"""Seconds: clocks of a host and of its servers are never quite the same."""
CROWD = 8
"""Workers that want the same at the same moment."""


def promise(kept: object, text: str) -> None:
    if not kept:
        raise AssertionError(text)


@contextmanager
def refused(error: type[MachineMemoryError], text: str) -> Iterator[None]:
    """Check that the block raises this; anything else that it raises is seen as it is."""
    try:
        yield
    except error:
        return
    raise AssertionError(text)


class Contract:
    """Tests for ``unittest`` and pytest alike. Ids are drawn by lot: the store may hold other machines."""

    brief = 0.5
    """Seconds of the leases that are to run out. A store that is slower than that needs more."""

    def make_memory(self, **options: Any) -> Memory:
        """Return a memory on the store that is tried; with the options that every memory has."""
        raise NotImplementedError(f"{type(self).__name__} has to define make_memory(**options): return a memory.")

    def expire(self, memory: Memory, id: str) -> None:
        """Let the lease of ``id``, which was taken for ``brief`` seconds, run out: move its end, or the clock to it."""
        time.sleep(self.brief + MARGIN)

    def new_id(self) -> str:
        return f"contract-{secrets.token_hex(8)}"

    def locked_and_expired(self, memory: Memory) -> str:
        """Return a machine whose lease this context had."""
        id = self.new_id()
        promise(memory.lock(id, ttl=self.brief), "A machine that nobody holds can be locked.")
        self.expire(memory, id)
        return id


def at_once(memory: Memory, call: Callable[[int], T]) -> list[T]:
    """Return what each of a crowd of workers, in threads of their own, gets for a call at the same moment."""
    start = threading.Barrier(CROWD)
    outcomes: list[Future[T]] = [Future() for _ in range(CROWD)]

    def work(number: int) -> None:
        try:
            start.wait(30)
            outcomes[number].set_result(call(number))
        except BaseException as error:  # noqa: BLE001  # It is raised where the result is asked for.
            outcomes[number].set_exception(error)
        finally:
            memory.store.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(CROWD)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [outcome.result(0) for outcome in outcomes]
