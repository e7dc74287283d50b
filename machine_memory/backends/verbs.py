"""The public verbs: they check, keep the rules that every store shares, and leave one primitive step to the store."""

import logging
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, ClassVar, ParamSpec, TypeVar

import tenacity
from asgiref.sync import sync_to_async

from machine_memory import exceptions as errors
from machine_memory import validation
from machine_memory.lease import KeepAlive, Lease, describe_owner, forget, held, hold
from machine_memory.records import Grant, LockInfo, Metadata, Record
from machine_memory.validation import EncodedData, quoted

logger = logging.getLogger("machine_memory")

P = ParamSpec("P")
T = TypeVar("T")

Seconds = float | timedelta


class MemoryVerbs(ABC):
    """Remember the state of machines, and let one context at a time advance each.

    A backend fills in the primitives below. Their arguments are checked; they raise this package's errors for what they
    refuse and, of their driver's, the ``failures`` alone, which the verbs translate.
    """

    failures: ClassVar[tuple[type[Exception], ...]] = ()

    def __init__(
        self,
        *,
        lock_ttl: Seconds = 120,
        read_attempts: int = 3,
        read_budget: float = 1.0,
        max_data_bytes: int = 2 * 1024 * 1024,
        max_data_depth: int = 30,
        require_lease: bool = False,
    ) -> None:
        try:
            self.lock_ttl = validation.ttl(lock_ttl, "LOCK_TTL")
        except errors.InvalidTTL as error:
            raise errors.InvalidConfiguration(str(error)) from None
        self.max_data_bytes = validation.option(max_data_bytes, "MAX_DATA_BYTES", int)
        self.max_data_depth = validation.option(max_data_depth, "MAX_DATA_DEPTH", int, most=validation.MAX_DEPTH)
        self.require_lease = validation.option(require_lease, "REQUIRE_LEASE", bool)
        self._retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(validation.option(read_attempts, "READ_ATTEMPTS", int))
            | tenacity.stop_before_delay(validation.option(read_budget, "READ_BUDGET", float)),
            wait=tenacity.wait_exponential(multiplier=0.05) + tenacity.wait_random(0, 0.05),
            retry=tenacity.retry_if_exception(self._may_read_again),
            reraise=True,
        )

    # The four operations

    def read(self, id: str) -> dict[str, Any] | None:
        """Return the state of a machine; ``None``: no state was ever written.

        Raises ``ReadError`` when the store failed, after retries where they can help, and ``CorruptRecord``.
        """
        id = validation.machine_id(id)
        return _state(id, self._read_retrying(id, self._read, id))

    def write(
        self, id: str, data: dict[str, Any], *, expected_version: int | None = None, metadata: Metadata | None = None
    ) -> int:
        """Replace the state of a machine, in one attempt, and return its new version.

        Raises, with nothing changed: ``LockLost`` where this context had a lease and has it no more, ``LockNotHeld`` where
        somebody else has one, ``VersionConflict`` where the stored version is not ``expected_version`` (0: no state yet),
        ``WriteError`` when the store failed. Of the latter, ``UnknownOutcome``: the reply was lost.
        """
        id = validation.machine_id(id)
        return self._write_checked(id, held(self, id), data, expected_version, metadata)

    def lock(self, id: str, *, ttl: Seconds | None = None) -> bool:
        """Take a lease of ``ttl`` seconds, in one attempt, without waiting.

        Returns whether this context has it now: ``False`` where anybody has one, this context included. Raises
        ``LockError`` when the store failed, ``LockInTransaction`` inside an open transaction.
        """
        lease = self._attempt(validation.machine_id(id), self._ttl(ttl), describe_owner())
        if lease is not None:
            hold(lease)
        return lease is not None

    def unlock(self, id: str) -> bool:
        """Give the lease back, if this context has it.

        Returns whether nobody has one now: ``False`` where somebody else does, and where the store failed (which is logged;
        the lease then ends by its ttl). Raises for an invalid id alone.
        """
        id = validation.machine_id(id)
        lease = held(self, id)
        return self._unlock(id, None) if lease is None else lease.release()

    # The lease

    @contextmanager
    def lease(
        self, id: str, *, ttl: Seconds | None = None, wait: Seconds = 0, keep_alive: bool = False
    ) -> Iterator[Lease]:
        """Hold a machine for a block, with its state read in the same step; released when the block ends.

        ``wait``: seconds of further attempts. ``keep_alive``: renew in the background. Raises as ``lock``, and ``LockDenied``
        where somebody else has a lease.
        """
        id, seconds, attempts = validation.machine_id(id), self._ttl(ttl), waiting(wait)
        lease = self._granted(id, tenacity.Retrying(**attempts)(self._attempt, id, seconds, describe_owner()))
        hold(lease)
        keeper = KeepAlive(lease) if keep_alive else None
        try:
            yield lease
        finally:
            if keeper:
                keeper.stop()
            if not lease._over:
                lease.release()
            forget(lease)

    # The rest of a memory

    def record(self, id: str) -> Record | None:
        """Return all that is known of a machine's state; ``None``: no state was ever written. Raises as ``read``."""
        id = validation.machine_id(id)
        record = self._read_retrying(id, self._record, id)
        if record is not None:
            _state(id, record.data)
        return record

    def cleanup(self, id: str) -> bool:
        """Remove state and lease of a machine that is complete; of an absent one, too.

        Returns ``True``. Raises ``LockNotHeld`` and ``LockLost`` as ``write``, and ``WriteError``.
        """
        id = validation.machine_id(id)
        lease = held(self, id)
        if lease is not None:
            lease._check()
        with self._translating(errors.WriteError, "clean up", id):
            self._remove(id, token=_token(lease))
        if lease is not None:
            lease._over = "was cleaned up"
            forget(lease)
        return True

    def force_unlock(self, id: str) -> bool:
        """End anybody's lease and advance the fence, so that the evicted holder's writes are refused. For operators.

        Returns whether there was a lease to end. Raises ``LockError`` when the store failed.
        """
        id = validation.machine_id(id)
        with self._translating(errors.LockError, "force-unlock", id):
            return self._force_release(id)

    def held_locks(self) -> Iterator[LockInfo]:
        """Yield the live leases, by id, read in batches. Raises ``ReadError``."""
        after = ""
        while batch := self._read_retrying(after, self._held_locks, after):
            yield from batch
            after = batch[-1].id

    def children(self, id: str) -> list[str]:
        """Return the ids of the machines that ``id`` started, sorted. Raises ``ReadError``."""
        id = validation.machine_id(id)
        return self._read_retrying(id, self._children, id)

    def tree(self, root: str) -> list[str]:
        """Return the ids of all machines whose root is ``root``, itself included, sorted. Raises ``ReadError``."""
        root = validation.machine_id(root, "root")
        return self._read_retrying(root, self._tree, root)

    # What the verbs share

    def _write_checked(
        self,
        id: str,
        lease: Lease | None,
        data: dict[str, Any],
        expected_version: int | None,
        metadata: Metadata | None,
        release: bool = False,
    ) -> int:
        text = validation.data(data, max_bytes=self.max_data_bytes, max_depth=self.max_data_depth)
        expected_version = validation.expected_version(expected_version)
        metadata = validation.metadata(metadata, data)
        if lease is not None:
            lease._check()
        elif self.require_lease:
            raise errors.LockNotHeld(f"Writing {quoted(id)} needs a lease here (REQUIRE_LEASE). Lock it first.")
        with self._translating(errors.WriteError, "write", id):
            version = self._write(
                id, text, token=_token(lease), expected_version=expected_version, metadata=metadata, release=release
            )
        if lease is not None:
            lease._wrote(text, version)
        return version

    def _attempt(self, id: str, ttl: float, owner: str) -> Lease | None:
        token, asked_at = secrets.token_hex(16), time.monotonic()
        with self._translating(errors.LockError, "lock", id):
            grant = self._acquire(id, token=token, owner=owner, ttl=ttl)
        if grant is None:
            return None
        lease = Lease(self, id, token=token, owner=owner, ttl=ttl, grant=grant, asked_at=asked_at)
        if not lease.remaining:
            lease._release()
            raise errors.LockError(f"The store took longer to lock {quoted(id)} than the ttl of {ttl:g} s.")
        return lease

    def _granted(self, id: str, lease: Lease | None) -> Lease:
        if lease is None:
            raise errors.LockDenied(f"Somebody else holds {quoted(id)}. Try again later, or wait longer for it.")
        try:
            _state(id, lease.data)
        except errors.CorruptRecord:
            lease._release()
            raise
        return lease

    def _renew_lease(self, lease: Lease, ttl: Seconds | None) -> None:
        seconds, asked_at = lease.ttl if ttl is None else validation.ttl(ttl), time.monotonic()
        lease._check()
        with self._translating(errors.LockError, "renew the lease of", lease.id):
            renewed = self._renew(lease.id, token=lease._token, ttl=seconds)
        if not renewed:
            raise lock_lost(lease.id)
        lease._extend(seconds, asked_at)

    def _unlock(self, id: str, lease: Lease | None) -> bool:
        try:
            free = self._release(id, token=_token(lease))
        except self.failures as failure:
            logger.warning("could not unlock %s, its lease ends by the ttl: %s", quoted(id), type(failure).__name__)
            return False
        if lease is not None:
            lease._over = lease._over or "was released"
        return free

    def _ttl(self, ttl: Seconds | None) -> float:
        return self.lock_ttl if ttl is None else validation.ttl(ttl)

    def _read_retrying(self, id: str, primitive: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        with self._translating(errors.ReadError, "read", id):
            return self._retrying(primitive, *args, **kwargs)

    @contextmanager
    def _translating(self, error: type[errors.StoreError], verb: str, id: str) -> Iterator[None]:
        try:
            yield
        except self.failures as failure:
            raise error(f"The store failed to {verb} {quoted(id)} ({type(failure).__name__}).") from failure

    async def _hop(self, verb: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a verb for a coroutine: once to a thread and back, however many statements it takes."""
        return await sync_to_async(verb)(*args, **kwargs)

    # The primitives

    @abstractmethod
    def _read(self, id: str) -> object: ...

    @abstractmethod
    def _record(self, id: str) -> Record | None: ...

    @abstractmethod
    def _write(
        self,
        id: str,
        data: EncodedData,
        *,
        token: str | None,
        expected_version: int | None,
        metadata: Metadata,
        release: bool,
    ) -> int:
        """Write in one atomic step and return the new version, or raise the ``refusal``."""

    @abstractmethod
    def _acquire(self, id: str, *, token: str, owner: str, ttl: float) -> Grant | None: ...

    @abstractmethod
    def _renew(self, id: str, *, token: str, ttl: float) -> bool: ...

    @abstractmethod
    def _release(self, id: str, *, token: str | None) -> bool:
        """End the lease of ``token``, and return whether no lease of ``id`` is live now."""

    @abstractmethod
    def _force_release(self, id: str) -> bool: ...

    @abstractmethod
    def _remove(self, id: str, *, token: str | None) -> None:
        """Delete the machine if it is there, or raise the ``refusal``."""

    @abstractmethod
    def _held_locks(self, after: str) -> list[LockInfo]:
        """Return the first live leases whose ids sort after ``after``."""

    @abstractmethod
    def _children(self, id: str) -> list[str]: ...

    @abstractmethod
    def _tree(self, root: str) -> list[str]: ...

    def _may_read_again(self, failure: BaseException) -> bool:
        return False

    def _close(self) -> None:
        """Give up what the calling thread alone has used."""


def _token(lease: Lease | None) -> str | None:
    return None if lease is None else lease._token


def lock_lost(id: str) -> errors.LockLost:
    return errors.LockLost(
        f"The lease of {quoted(id)} is over: it expired, was taken over or was forced."
        " Nothing was changed. Lock again, and start from the stored state."
    )


def lock_not_held(id: str) -> errors.LockNotHeld:
    return errors.LockNotHeld(f"Somebody else holds {quoted(id)}. Nothing was changed. Lock it before changing it.")


def refusal(
    id: str, *, token: str | None, live_token: str | None, version: int, expected_version: int | None
) -> errors.MachineMemoryError | None:
    """Return why ``token`` may not change ``id`` as it stands: the token of its live lease, and its version."""
    if token != live_token:
        return lock_lost(id) if token is not None else lock_not_held(id)
    if expected_version not in (None, version):
        return errors.VersionConflict(
            f"{quoted(id)} is at version {version}, not {expected_version}. Nothing was changed."
            " Read it again, and decide anew."
        )
    return None


def _state(id: str, data: object) -> dict[str, Any] | None:
    if data is None or isinstance(data, dict):
        return data
    raise errors.CorruptRecord(
        f"The state of {quoted(id)} is a {type(data).__name__}, not a JSON object: something else wrote it."
    )


def waiting(wait: Seconds) -> dict[str, Any]:
    seconds = validation.ttl(wait, "wait", least=0)
    return {
        "stop": tenacity.stop_before_delay(seconds),
        "wait": tenacity.wait_random_exponential(multiplier=0.02, max=0.5),
        "retry": tenacity.retry_if_result(lambda lease: lease is None),
        "retry_error_callback": lambda state: None,
    }
