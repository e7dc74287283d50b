"""What the verbs and the leases share: options, checks, translation of failures, retries of reads."""

import logging
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar

import tenacity
from asgiref.sync import sync_to_async

from machine_memory import encoding, validation
from machine_memory import exceptions as errors
from machine_memory.backends.primitives import Contended, MemoryPrimitives, UnknownGrant, lock_lost
from machine_memory.backends.step import Step, ending, is_taken_here
from machine_memory.contexts import forget, held
from machine_memory.keeper import keeper
from machine_memory.lease import Lease
from machine_memory.records import Change, EncodedData, Metadata
from machine_memory.telemetry import Operation
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
        step = self._operation("commit" if release else "write", id, errors.WriteError, "write")
        with step as operation, ending(lease if release else None):
            text, asked_at = self._encoded(data), time.monotonic()
            change = Change(
                id=id,
                data=text,
                metadata=validation.metadata(metadata, data),
                token=token_of(lease),
                expected_version=validation.expected_version(expected_version),
                release=release,
                extend=lease.ttl if lease is not None and lease._keep_alive and not release else None,
            )
            if lease is not None:
                operation.note(fence=lease.fence)
                lease._check()
            elif self.require_lease:
                raise errors.LockNotHeld(f"Writing {quoted(id)} needs a lease here (REQUIRE_LEASE). Lock it first.")
            version = self._write(change)
            if lease is not None:
                lease._wrote(text, version, asked_at)
                if release:
                    lease._end("was committed")
            operation.wrote(text, version)
        return version

    def _encoded(self, data: dict[str, Any]) -> EncodedData:
        return encoding.encode(data, max_bytes=self.max_data_bytes, max_depth=self.max_data_depth)

    def _take(self, lease: Lease) -> bool:
        """Lock, and return whether that was granted. Whatever is raised, no lease is left behind."""
        try:
            if lease._is_unwanted or not self._attempt(lease):
                return False
            if not lease._is_unwanted:
                return True
        except UnknownGrant:
            keeper.give_back(lease, may_come=True)
            raise
        except BaseException as failure:
            if lease._granted_at is not None:
                self._give_back(lease)
            elif not isinstance(failure, errors.MachineMemoryError):
                self._give_back(lease)
                keeper.give_back(lease, may_come=True)
            raise
        self._give_back(lease)
        return False

    def _attempt(self, lease: Lease) -> bool:
        id, ttl, asked_at = lease.id, lease.ttl, time.monotonic()
        with self._operation("lock", id, errors.LockError) as operation:
            lease._contended = None
            try:
                grant = self._acquire(id, token=lease._token, owner=lease.owner, ttl=ttl, trace=operation.trace())
            except Contended as reason:
                grant, lease._contended = None, str(reason)
            if grant is None:
                self._link_holder(id, operation)
            else:
                lease._grant(grant, asked_at)
                if grant.evicted is not None:
                    logger.warning("took over %s from a lease that expired (fence %d)", self._logged(id), grant.fence)
            operation.locked(grant, ttl)
        if grant is None:
            return False
        if not lease.remaining:
            raise errors.LockError(f"The store took longer to lock {quoted(id)} than the ttl of {ttl:g} s.")
        return True

    def _give_back(self, lease: Lease) -> None:
        """End what an exception left behind, without a span: of that, too, the exception may be."""
        try:
            self._release_surely(lease.id, lease._token)
            lease._end("was given back")
        except self.failures as failure:
            self._log_unreleased(lease.id, failure)
        except BaseException:
            keeper.give_back(lease)
            raise

    def _release_surely(self, id: str, token: str | None) -> bool:
        """Release; where the store fails, once more on a fresh connection."""
        try:
            return self._release(id, token=token)
        except self.failures:
            if token is None or self._in_transaction():
                raise
        except BaseException:
            self._start_afresh()
            raise
        self._start_afresh()
        return self._release(id, token=token)

    def _link_holder(self, id: str, operation: Operation) -> None:
        if operation.is_recorded:
            with suppress(*self.failures):  # The lock is denied, whether or not it can be told who has it.
                operation.link(self._holder_trace(id))

    def _take_for_block(self, lease: Lease) -> bool:
        """As ``_take``, of a machine whose state can be read."""
        if not self._take(lease):
            return False
        try:
            as_state(lease.id, lease.data)
        except BaseException:
            self._give_back(lease)
            raise
        return True

    def _denied(self, lease: Lease) -> errors.LockDenied:
        own = held(self, lease.id)
        if own is not None and own._is_live():
            return errors.LockDenied(
                f"This context holds {quoted(lease.id)} already, for {own.remaining:.3g} s more: a lock is not"
                " re-entrant. Go on with the lease that it has."
            )
        reason = lease._contended or f"Somebody else holds {quoted(lease.id)}."
        return errors.LockDenied(f"{reason} Try again later, or wait longer for it.")

    def _leave(self, lease: Lease) -> None:
        """End the lease of a block, whatever has become of it."""
        keeper.drop(lease)
        if lease._granted_at is not None and lease._over is None and lease._is_own:
            self._unlock(lease.id, lease)
        if not lease._is_settled:
            lease._abandon()  # A rollback would leave it behind.
        forget(lease)

    def _renew_lease(self, lease: Lease, ttl: Seconds | None) -> None:
        seconds, asked_at = lease.ttl if ttl is None else validation.ttl(ttl), time.monotonic()
        with self._operation("renew", lease.id, errors.LockError, "renew the lease of") as operation:
            lease._check()
            if not self._renew(lease.id, token=lease._token, ttl=seconds):
                raise lock_lost(lease.id)
            operation.outcome = "renewed"
            operation.note(ttl=seconds, fence=lease.fence)
        lease._renewed(seconds, asked_at)

    def _renew_leases(self, leases: Collection[Lease]) -> tuple[set[str], set[str]]:
        """Renew leases in one step, for the keeper. Returns as ``_renew_each``."""
        with self._operation("renew", "leases", errors.LockError) as operation:
            operation.outcome = "renewed"
            operation.note(leases=len(leases))
            return self._renew_each(leases)

    def _release_leases(self, leases: Collection[Lease]) -> set[str]:
        """Give leases back in one step, for the keeper. Returns as ``_release_each``."""
        with self._operation("unlock", "leases", errors.LockError) as operation:
            operation.outcome = "released"
            operation.note(leases=len(leases))
            return self._release_each(leases)

    def _unlock(self, id: str, lease: Lease | None) -> bool:
        if lease is not None and not lease._is_own:
            forget(lease)
            lease = None
        try:
            if lease is not None and is_taken_here():
                keeper.give_back(lease)
                return False
            with ending(lease), self._operation("unlock", id, errors.LockError) as operation:
                free = self._release_surely(id, token_of(lease))
                operation.outcome = "released" if free else "not_held"
                if lease is not None:
                    lease._end("was released")
        except errors.StoreError as error:
            self._log_unreleased(id, error.__cause__ or error)
            return False
        except BaseException:
            if lease is not None:
                lease._abandon()
            raise
        return free

    def _log_unreleased(self, id: str, failure: BaseException) -> None:
        logger.warning("could not unlock %s, its lease ends by the ttl: %s", self._logged(id), type(failure).__name__)

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

    def _operation(
        self, name: str, id: str, error: type[errors.StoreError], verb: str | None = None, *, yields: bool = False
    ) -> Step:
        """Return what to take a step in. ``yields``: it calls the caller back, who may take others meanwhile."""
        shown_id = id if self.telemetry_ids else None
        return Step(self, name, id, error, verb or name, shown_id=shown_id, busy=not yields)

    async def _hop(self, verb: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a verb for a coroutine: once to a thread and back, however many statements it takes."""
        return await sync_to_async(verb)(*args, **kwargs)


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
    """Return how attempts to lock are repeated for ``wait`` seconds, the last at their end; empty: there is one."""
    seconds = validation.ttl(wait, "wait", least=0)
    if not seconds:
        return {}
    backoff = tenacity.wait_random_exponential(multiplier=0.02, max=0.25)
    return {
        "stop": tenacity.stop_after_delay(seconds),
        "wait": lambda state: max(0.0, min(backoff(state), seconds - (state.seconds_since_start or 0.0))),
        "retry": tenacity.retry_if_result(lambda granted: not granted),
        "retry_error_callback": lambda state: False,
    }
