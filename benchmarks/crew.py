"""Processes that advance machines at the same moment, each an interpreter of its own."""

import multiprocessing
import os
import signal
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import Self

from benchmarks.order import advance

PATIENCE = 30
"""Seconds to wait for the others, and for a lease."""
_spawning = multiprocessing.get_context("spawn")  # A fork would share the connections.


@dataclass(frozen=True, slots=True)
class Task:
    """``processes`` of the crew advance machines of ``store`` for so many seconds: one each, or all the same."""

    store: str
    processes: int
    ids: tuple[str, ...]
    seconds: float


class Crew:
    """So many processes as the largest of ``sizes`` says, from entering the block until it ends."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self._start_lines = {size: _spawning.Barrier(size) for size in sizes}
        self._pipes: list[Connection] = []
        self._processes = []
        for _ in range(max(sizes)):
            ours, theirs = _spawning.Pipe()
            self._pipes.append(ours)
            self._processes.append(_spawning.Process(target=_work, args=(theirs, self._start_lines), daemon=True))

    def __enter__(self) -> Self:
        for process in self._processes:
            process.start()
        for pipe in self._pipes:
            pipe.recv()  # It is ready: what comes next does not compete with its start.
        return self

    def __exit__(self, *exc: object) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(PATIENCE)
            process.kill()

    def do(self, task: Task) -> list[list[float]]:
        """Return the seconds of each cycle, for each process."""
        pipes = self._pipes[: task.processes]
        for number, pipe in enumerate(pipes):
            pipe.send((task, number))
        answers = [pipe.recv() for pipe in pipes]
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers


def _work(pipe: Connection, start_lines: dict[int, Barrier]) -> None:
    import django  # noqa: PLC0415  # This is where a process begins.

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one.
    django.setup()
    pipe.send(os.getpid())
    while True:
        try:
            task, number = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(_cycles(task, number, start_lines[task.processes]))
        except Exception as error:  # noqa: BLE001  # It is raised again where the task was given.
            pipe.send(error)


def _cycles(task: Task, number: int, start_line: Barrier) -> list[float]:
    from benchmarks import stores  # noqa: PLC0415  # As above.

    memory = stores.memory(task.store)
    id = task.ids[number % len(task.ids)]
    memory.read(id)  # Connects.
    times = []
    start_line.wait(PATIENCE)
    now = time.monotonic()
    deadline = now + task.seconds
    while now < deadline:
        with memory.lease(id, wait=PATIENCE) as lease:
            state = lease.data
            advance(state)
            lease.commit(state)
        before, now = now, time.monotonic()
        times.append(now - before)
    return times
