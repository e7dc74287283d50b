"""What a store must do: one atomic step for each verb, and why such a step was refused."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import ClassVar

from django.core.checks import ERROR, WARNING, CheckMessage

from machine_memory import exceptions as errors
from machine_memory.core.records import (
    Change,
    Claim,
    Claimed,
    Criteria,
    Grant,
    Joined,
    LeaseRef,
    LockInfo,
    Look,
    Machine,
    PurgeResult,
    Record,
    Reindexed,
    Resumption,
    Retention,
    Snapshot,
    Sought,
    State,
    Summary,
)
from machine_memory.core.validation import quoted

Verdict = tuple[str, str]
"""How bad it is, as ``doctor.findings`` says, and what to do about it."""
Probe = Callable[[], Iterable[Verdict]]


class Contended(Exception):
    """Something other than a lease stands in the way of a lock, just now."""


class UnknownGrant(errors.LockError):
    """The reply to a lock was lost: it may have been granted. ``may_ask``: the store is worth asking now."""

    def __init__(self, id: str, failure: Exception, *, may_ask: bool = True) -> None:
        super().__init__(f"The store failed to lock {quoted(id)} ({type(failure).__name__}).")
        self.may_ask = may_ask

    def __reduce__(self) -> tuple[object, ...]:
        return errors.LockError, self.args


def problem(id: str, text: str, hint: str) -> CheckMessage:
    """Return a message of the system checks; each id has its line in the reference, and those with E are errors."""
    return CheckMessage(ERROR if id.startswith("E") else WARNING, text, hint, id=f"machine_memory.{id}")


class Store(ABC):
    """Where machines are kept. Each method is one atomic step; what is asked is checked already.

    They raise this package's errors for what they refuse and, of their driver's, the ``failures`` alone.
    """

    name: ClassVar[str] = "other"
    """What telemetry calls this kind of store."""
    place: str = "elsewhere"
    """Where the machines are, as people may be told."""
    failures: ClassVar[tuple[type[Exception], ...]] = ()
    batch: ClassVar[int] = 500
    """Machines of one step that could be for any number."""
    waits: ClassVar[bool] = True
    """Whether a step may take long: a coroutine has it taken in a thread."""
    monotonic: Callable[[], float] = staticmethod(time.monotonic)
    """The clock of this process by which a lease counts what is left of it; seconds since whenever."""
    database: str | None = None
    """The alias of the Django database whose ``MachineRecord`` holds the machines, for the admin to show them.

    ``None``: the admin shows what ``look`` and ``look_at`` find.
    """
    forks: bool = True
    """Whether a process may be forked while a thread has a connection, as long as the child does not use that."""
    alone: ClassVar[bool] = False
    """Whether the machines are those of this process, and others have their own."""
    finds_relatives: ClassVar[bool] = True
    """Whether ``children`` and ``tree`` take no longer where there are more machines."""

    @property
    def system(self) -> str | None:
        """OpenTelemetry's name of the database, if it is one."""
        return None

    @property
    def host(self) -> str:
        """Where its server listens, as people may be told; empty: there is none."""
        return ""

    @abstractmethod
    def read(self, id: str) -> object: ...
    @abstractmethod
    def record(self, id: str) -> Record | None: ...

    @abstractmethod
    def write(self, change: Change) -> int:
        """Write and return the new version, or raise the ``refusal``; ``UnknownOutcome`` where the reply was lost."""

    def write_each(self, changes: Collection[Change]) -> set[str]:
        """Write what the leases and the expected versions open, and return the ids of those; others are decided alone.

        Raises ``UnknownOutcome`` for all of them where the reply was lost.
        """
        return set()

    @abstractmethod
    def acquire(self, id: str, *, token: str, owner: str, ttl: float, trace: str | None) -> Grant | None:
        """Grant a lease; ``None``: somebody else has one. Raises ``Contended``, and ``UnknownGrant``."""

    def acquire_each(self, asked: Mapping[str, str], *, owner: str, ttl: float, trace: str | None) -> dict[str, Grant]:
        """Grant leases of what can be had, by their tokens; asked are ids by theirs, sorted.

        Raises ``UnknownGrant``.
        """
        granted = {}
        for token, id in asked.items():
            with suppress(Contended):
                if grant := self.acquire(id, token=token, owner=owner, ttl=ttl, trace=trace):
                    granted[token] = grant
        return granted

    @abstractmethod
    def claim(self, claim: Claim, pending: dict[str, str]) -> list[Claimed]:
        """Grant leases of what is due, the oldest first, and have each due again at the end of its lease or later.

        Not one whose timer is still to go off, as of those that have expired: it stays, see ``Due.rearmed``.
        ``pending``: is told before what may be granted, ids by the tokens; an id that is not known is empty.
        """

    @abstractmethod
    def granted(self, id: str, *, token: str) -> Grant | None:
        """Find the lease that was granted with a reply that never came."""

    @abstractmethod
    def resume(self, id: str, *, token: str, ttl: float | None) -> Resumption | None:
        """Find the lease of this token, if it is live; with a ``ttl`` it lasts that long from now on."""

    @abstractmethod
    def holder(self, id: str) -> LockInfo | None: ...

    def holder_trace(self, id: str) -> str | None:
        """Return the ``trace`` that the live lease was acquired with."""
        return None

    @abstractmethod
    def renew(self, id: str, *, token: str, ttl: float) -> bool: ...

    def renew_each(self, leases: Collection[LeaseRef]) -> tuple[set[str], set[str]]:
        """Extend live leases by the ttl of each, and wait for nobody's row.

        Returns the tokens of those that were extended, and of those that are live no more; others are in use just now.
        """
        renewed = {token for id, token, ttl in leases if self.renew(id, token=token, ttl=ttl)}
        return renewed, {token for _, token, _ in leases} - renewed

    @abstractmethod
    def release(self, id: str, *, token: str | None) -> bool:
        """End the lease of ``token``, and return whether no lease of ``id`` is live now."""

    def release_each(self, leases: Collection[LeaseRef]) -> set[str]:
        """End leases, and wait for nobody's row. Returns the tokens of those that are over; others are in use.

        An empty id is that of a claim without an answer: it is not known.
        """
        for id, token, _ in leases:
            self.release(id, token=token)
        return {token for _, token, _ in leases}

    @abstractmethod
    def force_release(self, id: str, *, fence: int | None) -> bool: ...

    @abstractmethod
    def remove(self, id: str, *, token: str | None) -> None:
        """Delete the machine if it is there, or raise the ``refusal``; ``UnknownOutcome`` as for ``write``."""

    @abstractmethod
    def held_locks(self, after: str) -> list[LockInfo]:
        """Return the first live leases whose ids sort after ``after``: a whole ``batch``, unless there are no more."""

    @abstractmethod
    def find(self, criteria: Criteria, after: str, limit: int) -> list[Summary]:
        """Return the first machines with state, by id, whose ids sort after ``after``."""

    def look(self, sought: Sought, start: str, limit: int) -> Look:
        """Return what one look that is bounded finds, from ``start`` on: about ``limit`` machines, or none yet."""
        raise errors.ReadError("This store has nothing for the admin to look at: see `Store.look`.")

    def look_at(self, ids: Collection[str], *, with_data: bool = False) -> list[Machine]:
        """Return those of these machines that are there."""
        raise errors.ReadError("This store has nothing for the admin to look at: see `Store.look_at`.")

    @abstractmethod
    def purge_locks(self, *, older_than: float, batch_size: int, dry_run: bool) -> Iterator[PurgeResult]:
        """End the leases that have been over for ``older_than`` seconds, batch by batch, and never a live one."""

    @abstractmethod
    def purge_machines(self, retention: Retention, *, batch_size: int, dry_run: bool) -> Iterator[PurgeResult]:
        """Delete the machines that may go, batch by batch."""

    @abstractmethod
    def children(self, id: str) -> list[str]: ...
    @abstractmethod
    def tree(self, root: str) -> list[str]: ...

    def export(self, ids: Collection[str]) -> list[Snapshot]:
        """Return those of these machines that have state, in any order."""
        raise errors.ReadError("This store does not hand machines over: see `Store.export`.")

    def adopt(self, machines: Collection[Snapshot]) -> set[str]:
        """Store machines as they were elsewhere, in one atomic step for each, and return the ids of those it did.

        One that somebody holds is left as it is, and one than which the other is not newer; no fence becomes lower.
        """
        raise errors.WriteError("This store takes no machines in: see `Store.adopt`.")

    def reindex(self, *, dry_run: bool) -> Iterator[Reindexed]:
        """Add what is lacking in the indexes that listings go by, some machines at a time, while others go on."""
        yield from ()

    def check(self, *, deploy: bool) -> Iterator[CheckMessage]:
        """Yield what is wrong around this store: in the settings, or (``deploy``) in how the server is set up."""
        yield from ()

    def probes(self) -> Iterator[tuple[str, Probe]]:
        """Yield what the doctor asks, by name; where ``connection`` is not answered, nothing after it is asked."""
        yield from ()

    def may_read_again(self, failure: BaseException) -> bool:
        """Say whether the same read may succeed a moment later."""
        return False

    def joined(self, latest: Joined | None) -> Joined | None:
        """Return the transaction of the caller's that the last step has joined: ``latest``, if it is the same."""
        return None

    def in_transaction(self) -> bool:
        """Say whether a transaction of the caller's is open, which the steps of this thread join."""
        return False

    def clear(self) -> None:
        """Delete all machines, and what is kept beside them: tests end with it, in a place of their own."""
        raise NotImplementedError

    def note(self, failure: Exception) -> None:  # noqa: B027  # Most go on as they are.
        """Take note of a failure that the next step is not to meet again, as its server may be another one by now."""

    def start_afresh(self) -> None:  # noqa: B027  # Not every store has connections.
        """Have the next step take a new connection, as this one may be dead, or owe the answer to another question."""

    def close(self) -> None:  # noqa: B027
        """Close what the calling thread alone has used."""


def lock_lost(id: str) -> errors.LockLost:
    return errors.LockLost(
        f"The lease of {quoted(id)} is over: it expired, was taken over or was forced."
        " Nothing was changed. Lock again, and start from the stored state."
    )


def lock_not_held(id: str) -> errors.LockNotHeld:
    return errors.LockNotHeld(f"Somebody else holds {quoted(id)}. Nothing was changed. Lock it before changing it.")


def reply_lost(what: str, id: str) -> errors.UnknownOutcome:
    return errors.UnknownOutcome(
        f"The reply to the {what} of {quoted(id)} was lost: it may have been applied."
        " Read it back and compare versions before writing again."
    )


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


def as_state(id: str, data: object) -> State | None:
    """Return stored data that is a state, or that there is none. Raises ``CorruptRecord``."""
    if data is None or isinstance(data, dict):
        return data
    raise errors.CorruptRecord(
        f"The state of {quoted(id)} is a {type(data).__name__}, not a JSON object: something else wrote it."
    )
