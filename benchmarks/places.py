"""Where machines are kept, as other processes can be told, and how many cycles these get done there together."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from statistics import median
from threading import Barrier
from typing import Any

import django
from django.db import connections
from redis import Redis

from benchmarks import stores
from benchmarks.contestants import cycle
from machine_memory import BaseMachineMemory, DatabaseMachineMemory, RedisMachineMemory

WORKERS = (1, 4, 16)
SECONDS, ROUNDS = 0.5, 2
"""Of each number of workers."""
PATIENCE = 60
"""Seconds to wait for the others."""
SPAWN = get_context("spawn")


@dataclass(frozen=True, slots=True)
class Place:
    """Where machines are kept, as a process of its own can be told."""

    name: str
    urls: Sequence[str] = ()
    """Of Redis; several are those of a cluster."""
    database: Mapping[str, Any] | None = None
    """Django's settings."""

    def memory(self) -> BaseMachineMemory:
        if self.database is None:
            if len(self.urls) > 1:
                return RedisMachineMemory(cluster=self.urls, key_prefix=stores.PREFIX, socket_timeout=1)
            return RedisMachineMemory(client=Redis.from_url(self.urls[0], socket_timeout=1), key_prefix=stores.PREFIX)
        if self.name not in connections.settings:
            given = {"default": connections.settings["default"], self.name: dict(self.database)}
            connections.settings[self.name] = connections.configure_settings(given)[self.name]
        return DatabaseMachineMemory(using=self.name)


class Pool:
    """Processes that begin at one moment."""

    def __enter__(self) -> "Pool":
        with ExitStack() as stack:
            self._pool = stack.enter_context(
                ProcessPoolExecutor(WORKERS[-1], mp_context=SPAWN, initializer=django.setup)
            )
            own = stack.enter_context(SPAWN.Manager())
            self._start_lines = {count: own.Barrier(count) for count in WORKERS}
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def paces(self, places: Sequence[Place]) -> list[list[object]]:
        """Return, for each place, how many cycles a second these workers get done; the places take turns."""
        self._together(places[0], WORKERS[-1], 0)
        found: dict[tuple[str, int], list[float]] = {}
        for _ in range(ROUNDS):
            for count in WORKERS:
                for place in places:
                    found.setdefault((place.name, count), []).append(self._together(place, count, SECONDS) / SECONDS)
        return [[place.name, *(median(found[place.name, count]) for count in WORKERS)] for place in places]

    def _together(self, place: Place, count: int, seconds: float) -> int:
        tasks = [
            self._pool.submit(_cycles, place, stores.machine_id(number + 1), self._start_lines[count], seconds)
            for number in range(count)
        ]
        return sum(task.result() for task in tasks)


def _cycles(place: Place, id: str, start_line: Barrier, seconds: float) -> int:
    memory, count = place.memory(), 0
    take = cycle(memory)
    memory.read(id)  # Connects.
    start_line.wait(PATIENCE)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        take(id)
        count += 1
    memory.store.start_afresh()
    return count
