"""What the verbs and the leases share: options, checks, translation of failures, retries of reads."""

import logging
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar

import tenacity
from asgiref.sync import sync_to_async

from machine_memory import encoding, validation
from machine_memory import exceptions as errors
from machine_memory.backends.primitives import MemoryPrimitives, lock_lost
from machine_memory.lease import Lease
from machine_memory.records import Change, Metadata
from machine_memory.telemetry import REFUSALS, Operation
from machine_memory.validation import quoted

logger = logging.getLogger("machine_memory")

P = ParamSpec("P")
T = TypeVar("T")

Seconds = float | timedelta


class MemorySteps(MemoryPrimitives):
    """Take one checked step each, without regard to who asks: a verb, a lease, or an async twin."""

    def __init__(
        self,
        *,
        lock_ttl: Seconds = 120,
        read_attempts: int = 3,
        read_budget: float = 1.0,
        max_data_bytes: int = 2 * 1024 * 1024,
        max_data_depth: int = 30,
        require_lease: bool = False,
        telemetry_ids: bool = False,
    ) -> None:
        try:
            self.lock_ttl = validation.ttl(lock_ttl, "LOCK_TTL")
        except errors.InvalidTTL as error:
            raise errors.InvalidConfiguration(str(error)) from None
        self.max_data_bytes = validation.option(max_data_bytes, "MAX_DATA_BYTES", int)
        self.max_data_depth = validation.option(max_data_depth, "MAX_DATA_DEPTH", int, most=validation.MAX_DEPTH)
        self.require_lease = validation.option(require_lease, "REQUIRE_LEASE", bool)
        self.telemetry_ids = validation.option(telemetry_ids, "TELEMETRY_IDS", bool)
        self._retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(validation.option(read_attempts, "READ_ATTEMPTS", int))
            | tenacity.stop_before_delay(validation.option(read_budget, "READ_BUDGET", float)),
            wait=tenacity.wait_exponential(multiplier=0.05) + tenacity.wait_random(0, 0.05),
            retry=tenacity.retry_if_exception(self._may_read_again),
            reraise=True,
        )

    def _write_checked(
        self,
        id: str,
        data: dict[str, Any],
        *,
        lease: Lease | None,
        expected_version: int | None,
        metadata: Metadata | None,
        release: bool = False,
    ) -> int:
        with self._operation("commit" if release else "write", id, errors.WriteError, "write") as operation:
            text = encoding.encode(data, max_bytes=self.max_data_bytes, max_depth=self.max_data_depth)
            change = Change(
                id=id,
                data=text,
                metadata=validation.metadata(metadata, data),
                token=token_of(lease),
                expected_version=validation.expected_version(expected_version),
                release=release,
            )
            if lease is not None:
                operation.note(fence=lease.fence)
                lease._check()
            elif self.require_lease:
                raise errors.LockNotHeld(f"Writing {quoted(id)} needs a lease here (REQUIRE_LEASE). Lock it first.")
            version = self._write(change)
            operation.wrote(text, version)
        if lease is not None:
            lease._wrote(text, version)
        return version

    def _attempt(self, id: str, ttl: float, owner: str) -> Lease | None:
        token, asked_at = secrets.token_hex(16), time.monotonic()
        with self._operation("lock", id, errors.LockError) as operation:
            grant = self._acquire(id, token=token, owner=owner, ttl=ttl, trace=operation.trace())
            operation.locked(grant, ttl)
            if grant is None:
                self._link_holder(id, operation)
            elif grant.evicted is not None:
                logger.warning("took over %s from a lease that expired (fence %d)", self._logged(id), grant.fence)
        if grant is None:
            return None
        lease = Lease(self, id, token=token, owner=owner, ttl=ttl, grant=grant, asked_at=asked_at)
        if not lease.remaining:
            lease._release()
            raise errors.LockError(f"The store took longer to lock {quoted(id)} than the ttl of {ttl:g} s.")
        return lease

    def _link_holder(self, id: str, operation: Operation) -> None:
        if operation.is_recorded:
            with suppress(*self.failures):  # The lock is denied, whether or not it can be told who has it.
                operation.link(self._holder_trace(id))

    def _granted(self, id: str, lease: Lease | None) -> Lease:
        if lease is None:
            raise errors.LockDenied(f"Somebody else holds {quoted(id)}. Try again later, or wait longer for it.")
        try:
            as_state(id, lease.data)
        except errors.CorruptRecord:
            lease._release()
            raise
        return lease

    def _renew_lease(self, lease: Lease, ttl: Seconds | None) -> None:
        seconds, asked_at = lease.ttl if ttl is None else validation.ttl(ttl), time.monotonic()
        with self._operation("renew", lease.id, errors.LockError, "renew the lease of") as operation:
            lease._check()
            if not self._renew(lease.id, token=lease._token, ttl=seconds):
                raise lock_lost(lease.id)
            operation.outcome = "renewed"
            operation.note(ttl=seconds, fence=lease.fence)
        lease._extend(seconds, asked_at)

    def _unlock(self, id: str, lease: Lease | None) -> bool:
        try:
            with self._operation("unlock", id, errors.LockError) as operation:
                free = self._release(id, token=token_of(lease))
                operation.outcome = "released" if free else "not_held"
        except errors.StoreError as error:
            failure = error.__cause__ or error
            logger.warning(
                "could not unlock %s, its lease ends by the ttl: %s", self._logged(id), type(failure).__name__
            )
            return False
        if lease is not None:
            lease._end("was released")
        return free

    def _ttl(self, ttl: Seconds | None) -> float:
        return self.lock_ttl if ttl is None else validation.ttl(ttl)

    def _read_retrying(self, name: str, id: str, primitive: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        with self._operation(name, id, errors.ReadError, "read") as operation:
            try:
                found = primitive(*args, **kwargs)
            except self.failures as failure:
                try:
                    found = self._retrying(_after(failure, primitive), *args, **kwargs)
                finally:
                    operation.retried(self._retrying.statistics["attempt_number"])
            operation.outcome = "miss" if found is None else "hit"
            return found

    def _logged(self, id: str) -> str:
        """Return the name of a machine for logs, which is as private there as on spans."""
        return quoted(id) if self.telemetry_ids else "a machine"

    def _operation(self, name: str, id: str, error: type[errors.StoreError], verb: str | None = None) -> "_Step":
        return _Step(self, name, id, error, verb or name)

    async def _hop(self, verb: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a verb for a coroutine: once to a thread and back, however many statements it takes."""
        return await sync_to_async(verb)(*args, **kwargs)


class _Step(Operation):
    """An operation that raises an error of this package in the place of a driver's."""

    __slots__ = ("_error", "_id", "_steps", "_verb")

    def __init__(self, memory: MemorySteps, name: str, id: str, error: type[errors.StoreError], verb: str) -> None:
        super().__init__(name, memory, id if memory.telemetry_ids else None)
        self._steps, self._id, self._error, self._verb = memory, id, error, verb

    def __exit__(self, kind: object, failure: BaseException | None, traceback: object) -> None:
        if isinstance(failure, REFUSALS) and self._error is errors.WriteError:
            outcome = self.refused(failure)
            logger.warning("refused to %s %s: %s", self._verb, self._steps._logged(self._id), outcome)
        if not isinstance(failure, self._steps.failures):
            self.end(failure)
            return
        try:
            raise self._error(
                f"The store failed to {self._verb} {quoted(self._id)} ({type(failure).__name__})."
            ) from failure
        except errors.StoreError as error:
            self.end(error)
            raise


def _after(failure: Exception, primitive: Callable[P, T]) -> Callable[P, T]:
    """Return ``primitive``, with the failure that it has met already as its first attempt."""
    failures = [failure]

    def attempt(*args: P.args, **kwargs: P.kwargs) -> T:
        if failures:
            raise failures.pop()
        return primitive(*args, **kwargs)

    return attempt


def token_of(lease: Lease | None) -> str | None:
    return None if lease is None else lease._token


def as_state(id: str, data: object) -> dict[str, Any] | None:
    if data is None or isinstance(data, dict):
        return data
    raise errors.CorruptRecord(
        f"The state of {quoted(id)} is a {type(data).__name__}, not a JSON object: something else wrote it."
    )


def waiting(wait: Seconds) -> dict[str, Any]:
    """Return how attempts to lock are repeated for ``wait`` seconds; empty: there is one."""
    seconds = validation.ttl(wait, "wait", least=0)
    if not seconds:
        return {}
    return {
        "stop": tenacity.stop_before_delay(seconds),
        "wait": tenacity.wait_random_exponential(multiplier=0.02, max=0.25),
        "retry": tenacity.retry_if_result(lambda lease: lease is None),
        "retry_error_callback": lambda state: None,
    }
