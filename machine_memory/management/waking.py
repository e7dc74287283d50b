"""Working off what is due: claim it, hand each machine to a handler, and wait a little where there is nothing."""

import logging
import random
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor, wait
from inspect import isawaitable
from typing import Any

from asgiref.sync import async_to_sync
from django.db import close_old_connections, connections

from machine_memory.core import contexts
from machine_memory.core.lease import Lease
from machine_memory.core.memory import BaseMachineMemory
from machine_memory.exceptions import StoreError

logger = logging.getLogger("machine_memory")

LEAST, MOST = 0.1, 3.0
"""Seconds between two looks where nothing is due; they double in between."""
EVERY = 0.2
"""Seconds between two words on how it goes."""


class Waking:
    """Several threads that claim what is due, with these options, and call the handler with each lease."""

    def __init__(self, memory: BaseMachineMemory, handler: Callable[[Lease], Any], **options: Any) -> None:
        self._memory, self._handler, self._options = memory, handler, options
        self._stopping = threading.Event()
        self._counting = threading.Lock()
        self.handled = self.failed = 0
        memory.claim(**options)  # Says what is wrong with them, and claims nothing before it is entered.

    def stop(self, *signal: object) -> None:
        """Begin no further batch."""
        self._stopping.set()

    def run(self, workers: int, on_progress: Callable[[], object]) -> None:
        """Work until it is told to stop, and finish the batches in hand. Raises what ends a worker."""
        with ThreadPoolExecutor(workers, "machine-memory-wake") as pool:
            running = {pool.submit(self._work) for _ in range(workers)}
            while running:
                done, running = wait(running, EVERY)
                on_progress()
                for worker in done:
                    worker.result()

    def _work(self) -> None:
        pause = LEAST
        try:
            while not self._stopping.is_set():
                if self._batch():
                    pause = LEAST
                    continue
                self._stopping.wait(pause * random.uniform(0.5, 1.0))  # noqa: S311  # So that they do not look at once.
                pause = min(2 * pause, MOST)
        finally:
            self._stopping.set()  # Where one cannot go on, none does.
            self._memory.store.close()
            connections.close_all()

    def _batch(self) -> int:
        """Claim and handle what is due, and return how many that were; none where the store fails just now."""
        close_old_connections()  # As between requests: those that broke, or have served for long enough.
        try:
            with self._memory.claim(**self._options, keep_alive=True) as batch:
                for id, error in batch.refused.items():
                    name = self._memory.steps.logged(id)
                    logger.error("could not read %s that was claimed (%s)", name, type(error).__name__)
                    self._count(failed=1)
                for lease in list(batch):
                    self._handled(lease)
                return len(batch) + len(batch.refused)
        except StoreError as error:
            logger.warning("could not claim what is due: %s", type(error.__cause__ or error).__name__)
            return 0

    def _handled(self, lease: Lease) -> None:
        contexts.begin()
        try:
            self._handle(lease)
        except Exception as error:
            close_old_connections()  # One that broke is not to fail the others of the batch, too.
            name = self._memory.steps.logged(lease.id)
            logger.exception("the handler failed on %s (%s), attempt %d", name, type(error).__name__, lease.attempts)
            self._count(failed=1)
        else:
            self._count(handled=1)
        finally:
            contexts.end()
        if not lease._is_given_back:
            lease.release()  # What comes after it in the batch is not to keep it from others.

    def _handle(self, lease: Lease) -> None:
        result = self._handler(lease)
        if isawaitable(result):  # What a handler is wrapped in may hide what it is until it is called.
            async_to_sync(_awaited)(result)

    def _count(self, *, handled: int = 0, failed: int = 0) -> None:
        with self._counting:
            self.handled += handled
            self.failed += failed


async def _awaited(result: Awaitable[object]) -> None:
    await result
