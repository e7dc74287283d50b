"""Workers that count through whatever becomes of the servers of their memory."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from machine_memory import BaseMachineMemory, LockLost, StoreError
from tests.clusters.redis_cluster import until

IDS = [f"m{number}" for number in range(9)]
"""Some for each node of a cluster."""


class Counting:
    """Counts under leases and reads in between, and takes note of what it finds that it did not write."""

    def __init__(self, memory: BaseMachineMemory, id: str, ttl: float) -> None:
        self.memory, self.id, self.ttl = memory, id, ttl
        self.stopped = threading.Event()
        self.failure: BaseException | None = None
        self.done = self.lost = self.fence = 0
        self.failed: list[str] = []
        """What it was told, and of what that came."""
        # It goes on from what is there: to begin anew is a change that a failover may lose, too.
        self._acknowledged = self._sent = _count(memory.read(id))

    def run(self) -> None:
        try:
            while not self.stopped.is_set():
                try:
                    self._step()
                except (StoreError, LockLost) as failure:
                    self.failed.append(f"{failure!r} of {failure.__cause__!r}")
                    time.sleep(0.005)  # What fails at once would fail some thousand times.
        except BaseException as error:
            self.failure = error
            raise

    def _step(self) -> None:
        with self.memory.lease(self.id, ttl=self.ttl, wait=5) as lease:
            assert lease.fence > self.fence, "a fence came twice"
            self.fence = lease.fence
            self.check(lease.data)
            self._sent += 1
            lease.commit({"n": self._sent})
            self._acknowledged = self._sent
        self.check(self.memory.read(self.id))
        self.done += 1

    def check(self, state: dict[str, Any] | None) -> None:
        """Take note of the writes that were acknowledged and are not there; a number that nobody wrote is a mistake."""
        count = _count(state)
        assert count <= self._sent, f"{self.id} is at {count}, and {self._sent} was the last that was written"
        self.lost += max(0, self._acknowledged - count)
        self._acknowledged = self._sent = count


def _count(state: dict[str, Any] | None) -> int:
    return int(state["n"]) if state else 0


@contextmanager
def counting(memory: BaseMachineMemory, *, ttl: float = 2) -> Iterator[list[Counting]]:
    """Count in every machine, each in a thread of its own, and check what is stored in the end."""
    workers = [Counting(memory, id, ttl) for id in IDS]
    threads = [threading.Thread(target=worker.run) for worker in workers]
    for thread in threads:
        thread.start()
    try:
        all_go_on(workers)
        yield workers
        all_go_on(workers)
    finally:
        for worker in workers:
            worker.stopped.set()
        for thread in threads:
            thread.join(30)
    for worker in workers:
        worker.check(memory.read(worker.id))


def all_go_on(workers: list[Counting], seconds: float = 20, *, steps: int = 2) -> float:
    """Wait until each has counted on so far, and return how long that took."""
    goals = {worker: worker.done + steps for worker in workers}

    def all_have() -> bool:
        assert [worker.failure for worker in workers] == [None] * len(workers)
        return all(worker.done >= goal for worker, goal in goals.items())

    return until(all_have, seconds)
