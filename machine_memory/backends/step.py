"""One step of a memory on its way: told to telemetry, with an error of this package in the place of a driver's."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import NoneType
from typing import Self

from machine_memory import exceptions as errors
from machine_memory.backends.primitives import MemoryPrimitives
from machine_memory.lease import Lease
from machine_memory.telemetry import REFUSALS, Operation
from machine_memory.validation import quoted

logger = logging.getLogger("machine_memory")

_steps = threading.local()
"""Whether this thread is in the middle of one: ``are_taken``."""


class Step(Operation):
    """An operation that raises an error of this package in the place of a driver's."""

    __slots__ = ("_before", "_busy", "_error", "_id", "_steps", "_verb")

    def __init__(
        self,
        memory: MemoryPrimitives,
        name: str,
        id: str,
        error: type[errors.StoreError],
        verb: str,
        *,
        shown_id: str | None,
        busy: bool,
    ) -> None:
        super().__init__(name, memory, shown_id)
        self._steps, self._id, self._error, self._verb, self._busy = memory, id, error, verb, busy

    def __enter__(self) -> Self:
        self._before = getattr(_steps, "are_taken", False)
        _steps.are_taken = self._busy
        try:
            return super().__enter__()
        except BaseException:
            _steps.are_taken = self._before
            raise

    def __exit__(self, kind: object, failure: BaseException | None, traceback: object) -> None:
        _steps.are_taken = self._before
        if isinstance(failure, REFUSALS) and self._error is errors.WriteError:
            outcome = self.refused(failure)
            logger.warning("refused to %s %s: %s", self._verb, self._steps._logged(self._id), outcome)
        if not isinstance(failure, self._steps.failures):
            if not isinstance(failure, (errors.MachineMemoryError, NoneType)):
                self._steps._start_afresh()  # It may have come between a question and its answer.
            self.end(failure)
            return
        try:
            raise self._error(
                f"The store failed to {self._verb} {quoted(self._id)} ({type(failure).__name__})."
            ) from failure
        except errors.StoreError as error:
            self.end(error)
            raise


@contextmanager
def ending(lease: Lease | None) -> Iterator[None]:
    """Tell the keeper that a lease may end meanwhile, and not be lost by that."""
    if lease is None:
        yield
        return
    lease._is_stepping = True
    try:
        yield
    finally:
        lease._is_stepping = False


def is_taken_here() -> bool:
    """Say whether this thread is in the middle of a step: a signal handler or a finalizer asks."""
    return getattr(_steps, "are_taken", False)
