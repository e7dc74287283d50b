"""What a backend fills in: one atomic step of its store for each verb, and why such a step was refused."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, ClassVar

from django.core.checks import CheckMessage

from machine_memory.exceptions import (
    LockError,
    LockLost,
    LockNotHeld,
    MachineMemoryError,
    UnknownOutcome,
    VersionConflict,
)
from machine_memory.records import Change, Grant, Joined, LockInfo, PurgeResult, Record, Retention
from machine_memory.validation import quoted

if TYPE_CHECKING:
    from machine_memory.lease import Lease


class Contended(Exception):
    """Something other than a lease stands in the way of a lock, just now."""


class UnknownGrant(LockError):
    """The reply to a lock was lost: it may have been granted."""


class MemoryPrimitives(ABC):
    """The steps of a store.

    Their arguments are checked. They raise this package's errors for what they refuse and, of their driver's, the
    ``failures`` alone, which the verbs translate.
    """

    failures: ClassVar[tuple[type[Exception], ...]] = ()
    batch: ClassVar[int] = 500
    backend: ClassVar[str] = "other"
    """What telemetry calls this kind of store."""
    alias = "-"
    """The name of this memory in the settings, if it has one."""

    @abstractmethod
    def _logged(self, id: str) -> str:
        """Return the name of a machine for logs."""

    @property
    def system(self) -> str | None:
        """OpenTelemetry's name of the database, if it is one."""
        return None

    @abstractmethod
    def _read(self, id: str) -> object: ...

    @abstractmethod
    def _record(self, id: str) -> Record | None: ...

    @abstractmethod
    def _write(self, change: Change) -> int:
        """Write in one atomic step and return the new version, or raise the ``refusal``."""

    @abstractmethod
    def _acquire(self, id: str, *, token: str, owner: str, ttl: float, trace: str | None) -> Grant | None:
        """Grant a lease; ``None``: somebody else has one.

        Raises ``Contended``, and ``UnknownGrant`` where the reply was lost and could not be found again.
        """

    @abstractmethod
    def _holder(self, id: str) -> LockInfo | None: ...

    def _holder_trace(self, id: str) -> str | None:
        """Return the ``trace`` that the live lease was acquired with."""
        return None

    @abstractmethod
    def _renew(self, id: str, *, token: str, ttl: float) -> bool: ...

    @abstractmethod
    def _renew_each(self, leases: "Collection[Lease]") -> tuple[set[str], set[str]]:
        """Extend live leases by the ttl of each, and wait for nobody's row.

        Returns the tokens of those that were extended, and of those that are live no more; others are in use just now.
        """

    @abstractmethod
    def _release(self, id: str, *, token: str | None) -> bool:
        """End the lease of ``token``, and return whether no lease of ``id`` is live now."""

    @abstractmethod
    def _release_each(self, leases: "Collection[Lease]") -> set[str]:
        """End leases, and wait for nobody's row. Returns the tokens of those that are over; others are in use."""

    @abstractmethod
    def _force_release(self, id: str, *, fence: int | None) -> bool: ...

    @abstractmethod
    def _remove(self, id: str, *, token: str | None) -> None:
        """Delete the machine if it is there, or raise the ``refusal``."""

    @abstractmethod
    def _held_locks(self, after: str) -> list[LockInfo]:
        """Return the first live leases whose ids sort after ``after``: a whole ``batch``, unless there are no more."""

    @abstractmethod
    def _purge_locks(self, *, older_than: float, batch_size: int, dry_run: bool) -> Iterator[PurgeResult]:
        """End the leases that have been over for ``older_than`` seconds, batch by batch, and never a live one."""

    @abstractmethod
    def _purge_machines(self, retention: Retention, *, batch_size: int, dry_run: bool) -> Iterator[PurgeResult]:
        """Delete the machines that may go, batch by batch."""

    @abstractmethod
    def _children(self, id: str) -> list[str]: ...

    @abstractmethod
    def _tree(self, root: str) -> list[str]: ...

    def check(self, *, deploy: bool) -> Iterator[CheckMessage]:
        """Yield what is wrong around this memory: in the settings, or (``deploy``) in how the server is set up."""
        yield from ()

    def _may_read_again(self, failure: BaseException) -> bool:
        return False

    def _in_transaction(self) -> bool:
        """Return whether a transaction of the caller's is open, which the steps of this thread join."""
        return False

    def _joined(self, latest: Joined | None) -> Joined | None:
        """Return the transaction of the caller's that the last step has joined: ``latest``, if it is the same."""
        return None

    def _start_afresh(self) -> None:  # noqa: B027  # Not every store has connections.
        """Have the next step take a new connection, as this one may be dead, or owe the answer to another question."""

    def _close(self) -> None:  # noqa: B027
        """Close what the calling thread alone has used."""


def lock_lost(id: str) -> LockLost:
    return LockLost(
        f"The lease of {quoted(id)} is over: it expired, was taken over or was forced."
        " Nothing was changed. Lock again, and start from the stored state."
    )


def lock_not_held(id: str) -> LockNotHeld:
    return LockNotHeld(f"Somebody else holds {quoted(id)}. Nothing was changed. Lock it before changing it.")


def reply_lost(what: str, id: str) -> UnknownOutcome:
    return UnknownOutcome(
        f"The reply to the {what} of {quoted(id)} was lost: it may have been applied."
        " Read it back and compare versions before writing again."
    )


def refusal(
    id: str, *, token: str | None, live_token: str | None, version: int, expected_version: int | None
) -> MachineMemoryError | None:
    """Return why ``token`` may not change ``id`` as it stands: the token of its live lease, and its version."""
    if token != live_token:
        return lock_lost(id) if token is not None else lock_not_held(id)
    if expected_version not in (None, version):
        return VersionConflict(
            f"{quoted(id)} is at version {version}, not {expected_version}. Nothing was changed."
            " Read it again, and decide anew."
        )
    return None
