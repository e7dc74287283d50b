"""The crew: worker processes, of which those that are killed are replaced."""

import signal
import subprocess
import sys
import tempfile
from itertools import count
from pathlib import Path
from typing import Self

from django.core.management.base import CommandError

from example_project.fulfilment.models import Kill

MANAGE = Path(__file__).parents[3] / "manage.py"
FAREWELL = 10
"""Seconds that a worker has to end when it is told to."""


class WorkerProcess:
    """A fresh interpreter at work. It ends when its input does, so it never outlives this process, whatever ends it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - It is open for as long as the process runs.
        self._process = subprocess.Popen(  # noqa: S603 - Nothing of this comes from outside.
            [sys.executable, MANAGE, "work", name],
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for this process alone, which then ends its workers in order.
        )

    def status(self) -> int | None:
        """Return the exit status, a negative signal number after a kill; ``None``: it is at work."""
        return self._process.poll()

    def output(self) -> str:
        self._output.seek(0)
        return self._output.read().decode(errors="replace").strip()

    def dismiss(self) -> None:
        """Tell it to end, without waiting until it has."""
        if self._process.stdin:
            self._process.stdin.close()

    def wait(self) -> None:
        try:
            self._process.wait(FAREWELL)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output.close()


class Crew:
    """So many workers, from entering the block until it ends."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._numbers = count(1)
        self._workers: list[WorkerProcess] = []

    def __enter__(self) -> Self:
        for _ in range(self._size):
            self._hire()
        return self

    def __exit__(self, *exc: object) -> None:
        for worker in self._workers:
            worker.dismiss()
        for worker in self._workers:
            worker.wait()

    def tend(self) -> None:
        """Replace the workers that were killed as planned.

        Raises ``CommandError`` where one ended in another way.
        """
        for worker in [worker for worker in self._workers if worker.status() is not None]:
            if worker.status() != -signal.SIGKILL or not Kill.objects.done().filter(worker=worker.name).exists():
                raise CommandError(f"{worker.name} ended with status {worker.status()}.\n{worker.output()}")
            self._hire()
            self._workers.remove(worker)
            worker.dismiss()
            worker.wait()

    def _hire(self) -> None:
        self._workers.append(WorkerProcess(f"worker-{next(self._numbers)}"))
