"""One step of a memory on its way: a failure of its store becomes an error of this package, and telemetry is told."""

import asyncio
import logging
import threading
from collections.abc import Callable
from types import NoneType
from typing import ParamSpec, Self, TypeVar
from weakref import ref

from asgiref.sync import sync_to_async

from machine_memory import exceptions as errors
from machine_memory.core.store import Store
from machine_memory.core.telemetry import REFUSALS, Operation, Origin
from machine_memory.core.transactions import left_out
from machine_memory.core.validation import quoted

logger = logging.getLogger("machine_memory")

P = ParamSpec("P")
T = TypeVar("T")
ANONYMOUS = "a machine"


class Several(str):
    """What a step is about, where that is not one machine, in the place of its id."""

    __slots__ = ()


MACHINES, LEASES, EXPIRED_LOCKS = Several("machines"), Several("leases"), Several("expired locks")
_steps = threading.local()
"""The step that this thread is in the middle of: ``taken``. Weakly, as an exception may keep it from ending."""


class Step(Operation):
    """An operation that raises an error of this package in the place of a driver's.

    ``verb``: what the store failed to do, should it. ``yields``: it calls the caller back, who may take other steps.
    """

    __slots__ = ("__weakref__", "_before", "_error", "_id", "_store", "_verb", "_yields")

    def __init__(
        self, steps: "Steps", name: str, id: str, error: type[errors.StoreError], *, verb: str, yields: bool
    ) -> None:
        super().__init__(name, steps.origin, id if steps.shows_ids and not isinstance(id, Several) else None)
        self._store, self._id, self._error, self._verb, self._yields = steps.store, id, error, verb, yields

    def __enter__(self) -> Self:
        self._before = getattr(_steps, "taken", None)
        _steps.taken = None if self._yields else ref(self)
        try:
            return super().__enter__()
        except BaseException:
            _steps.taken = self._before
            raise

    def __exit__(self, kind: object, failure: BaseException | None, traceback: object) -> None:
        _steps.taken = self._before
        if isinstance(failure, REFUSALS) and self._error is errors.WriteError:
            outcome = self.refused(failure)
            logger.warning(
                "refused to %s %s: %s", self._verb, quoted(self._id) if self._shown_id else ANONYMOUS, outcome
            )
        if not isinstance(failure, self._store.failures):
            try:
                if not isinstance(failure, (errors.MachineMemoryError, NoneType)):
                    self._store.start_afresh()  # It may have come between a question and its answer.
            finally:
                self.end(failure)
            return
        self._store.note(failure)
        try:
            raise self._error(
                f"The store failed to {self._verb} {quoted(self._id)} ({type(failure).__name__})."
            ) from failure
        except errors.StoreError as error:
            self.end(error)
            raise

    def system(self) -> str | None:
        return self._store.system


class Steps:
    """Steps of a store, told to telemetry under the ``alias`` of a memory."""

    def __init__(self, store: Store, *, shows_ids: bool) -> None:
        self.store, self.shows_ids = store, shows_ids
        self._has_told = False
        self.name("-")

    def name(self, alias: str) -> None:
        """Have telemetry and people know the memory by its alias."""
        self.alias, self.origin = alias, Origin(self.store.name, alias)

    def __call__(
        self, name: str, id: str, error: type[errors.StoreError], verb: str | None = None, *, yields: bool = False
    ) -> Step:
        if error is errors.WriteError and not self._has_told:
            self._tell_of_a_transaction_left_out()
        return Step(self, name, id, error, verb=verb or name, yields=yields)

    def _tell_of_a_transaction_left_out(self) -> None:
        """Log, once, that what is about to be written does not go with a transaction that the caller has open."""
        if database := left_out(self.store.database):
            self._has_told = True
            logger.warning(
                "a write to the memory %s (%s) inside an open transaction of the database %r stays when that is rolled"
                " back. Commit in `transaction.on_commit(lambda: lease.commit(data))`, within the block of the lease;"
                " or keep the memory in that database, where both are committed together. This is told once.",
                quoted(self.alias),
                self.store.place,
                database,
                stack_info=True,  # Nothing else says where.
            )

    def logged(self, id: str) -> str:
        """Return the name of a machine for logs, which is as private there as on spans."""
        return quoted(id) if self.shows_ids else ANONYMOUS

    async def hop(self, verb: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a verb for a coroutine: once to a thread and back, however many statements it takes."""
        if self.store.waits:
            return await sync_to_async(verb)(*args, **kwargs)
        await asyncio.sleep(0)  # Where others can be cancelled, so can this.
        return verb(*args, **kwargs)


def is_taken_here() -> bool:
    """Say whether this thread is in the middle of a step: a signal handler or a finalizer asks."""
    taken = getattr(_steps, "taken", None)
    return taken is not None and taken() is not None
