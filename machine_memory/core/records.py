"""The values that cross the boundary between a memory and its callers."""

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from itertools import accumulate
from math import inf
from typing import Any, Generic, NamedTuple, Protocol

if sys.version_info >= (3, 13):
    from typing import TypeVar
else:
    from typing_extensions import TypeVar

State = dict[str, Any]
"""What a machine reads: JSON values by their names. It writes any mapping of them."""

# Of what type states are, to a type checker: what is written, what is read, and what a lease shows.
Written = TypeVar("Written", default=Any)
Stored = TypeVar("Stored", default=State)
Shown = TypeVar("Shown", default=Any)


class Keep(Enum):
    """Says that a write leaves the timer of a machine as it is."""

    KEEP = "KEEP"

    def __repr__(self) -> str:
        return self.name


KEEP = Keep.KEEP
WakeAt = timedelta | datetime | Keep | None
"""When a machine is due: so much later by the store's clock, or then; ``None``: never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What a write says about a machine beside its data; what is absent stays as it is stored."""

    status: str | None = None
    source: str | None = None
    initiator: str | None = None
    parent: str | None = None
    """The id of the machine that started this one; kept from the first write on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What is known about a machine with state, without that state."""

    id: str
    version: int
    fence: int
    status: str | None
    source: str | None
    initiator: str | None
    parent: str | None
    root: str
    created_at: datetime
    written_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Record(Summary, Generic[Stored]):
    """The stored state of a machine, with everything that is known about it."""

    data: Stored = field(repr=False)  # It may be megabytes.


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot(Summary):
    """A machine with state and all that belongs to it but its lease, on its way to another store."""

    text: str = field(repr=False)
    """The state as it is stored, to the order of keys and the spelling of each number."""
    wake_at: datetime | None
    attempts: int

    def is_newer(self, version: int, fence: int) -> bool:
        """Say whether it is of a later write, or of the same one and a later lease, which may have moved the timer."""
        return (self.version, self.fence) > (version, fence)


@dataclass(frozen=True, slots=True, kw_only=True)
class LockInfo:
    """A live lease, as anybody may see it; times are in UTC, by the store's clock."""

    id: str
    owner: str
    fence: int
    locked_at: datetime
    expires_at: datetime


class Reindexed(NamedTuple):
    """What was seen of an index: of so many machines, how many hints were lacking."""

    machines: int
    lacking: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PurgeResult:
    """What a purge did, or as a dry run would do."""

    cleared: int = 0
    """Expired leases that were ended; the state of their machines stays."""
    deleted: int = 0
    """Machines that were deleted."""
    bytes: int = 0
    """Of their state as JSON; counted by a dry run of ``purge_machines`` alone."""

    def __add__(self, other: "PurgeResult") -> "PurgeResult":
        return PurgeResult(
            cleared=self.cleared + other.cleared, deleted=self.deleted + other.deleted, bytes=self.bytes + other.bytes
        )


OnBatch = Callable[[PurgeResult], None]


def summed(batches: Iterable[PurgeResult], on_batch: OnBatch | None) -> PurgeResult:
    """Return the sum of batches; ``on_batch`` is told after each what was done until then."""
    total = PurgeResult()
    for total in accumulate(batches):
        if on_batch:
            on_batch(total)
    return total


Listed = TypeVar("Listed", LockInfo, Summary)


def listed(
    read: Callable[[str, int], list[Listed]], batch: int, after: str = "", limit: int | None = None
) -> Iterator[Listed]:
    """Yield what ``read`` returns of the ids after one, batch by batch."""
    left = inf if limit is None else limit
    while left > 0:
        size = int(min(left, batch))
        found = read(after, size)
        yield from found
        after, left = (found[-1].id, left - size) if len(found) >= size else ("", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """Which machines may go: of this status, not written for so long, not leased; with ``tree``, only whole trees."""

    status: str
    idle: float
    tree: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Criteria:
    """Which machines with state are looked for; what is ``None`` may be anything."""

    status: str | None = None
    prefix: str | None = None
    """The beginning of their ids."""
    idle: float | None = None
    """For how many seconds nobody has written them."""
    exhausted: bool | None = None
    """Whether they were claimed in vain, for the last time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """All that people may see of a machine, whether it was ever written or not: no token."""

    id: str
    now: datetime
    """The time by the store's clock."""
    version: int
    fence: int
    created_at: datetime
    written_at: datetime | None
    attempts: int
    status: str | None = None
    source: str | None = None
    initiator: str | None = None
    parent: str | None = None
    root: str | None = None
    lease_owner: str | None = None
    lease_trace: str | None = None
    lease_acquired_at: datetime | None = None
    lease_expires_at: datetime | None = None
    wake_at: datetime | None = None
    data: object = field(default=None, repr=False)
    """The state, where it was asked for."""

    @property
    def lease_state(self) -> str:
        """Return held, expired or free."""
        if self.lease_expires_at is None:
            return "free"
        return "held" if self.lease_expires_at > self.now else "expired"

    @property
    def timer(self) -> str | None:
        """Return due, sleeping or exhausted; ``None``: it has no timer."""
        if self.wake_at is not None:
            return "due" if self.wake_at <= self.now else "sleeping"
        return "exhausted" if self.attempts and self.lease_state != "held" else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sought:
    """Which machines people want to see, with state or without; what is ``None`` may be anything."""

    prefix: str | None = None
    """The beginning of their ids."""
    status: str | None = None
    parent: str | None = None
    root: str | None = None
    lease: str | None = None
    """Their ``lease_state``."""
    timer: str | None = None
    leased: bool = False
    """Whether they must have a lease, live or expired."""

    def is_met_by(self, machine: Machine) -> bool:
        return (
            machine.id.startswith(self.prefix or "")
            and self.status in (None, machine.status)
            and self.parent in (None, machine.parent)
            and self.root in (None, machine.root)
            and self.lease in (None, machine.lease_state)
            and self.timer in (None, machine.timer)
            and not (self.leased and machine.lease_expires_at is None)
        )


class Look(NamedTuple):
    """What one look has found."""

    machines: list[Machine]
    further: str
    """Where the next look starts; empty: it has all been looked through."""


class EncodedData(str):
    """Data that has been checked and encoded; the JSON column stores it as it is."""

    __slots__ = ()


@dataclass(slots=True, kw_only=True)  # Never changed, as grants; to have that checked would cost each cycle.
class Change:
    """A write that has been checked, on its way to a store: what it stores, and under which conditions."""

    id: str
    data: EncodedData
    metadata: Metadata
    ancestor: str | None
    """Whose root the machine gets with its first state: its parent, or beyond where that is first written with it."""
    token: str | None
    """Of the writer's lease; ``None``: it has none, and nobody else may have one."""
    expected_version: int | None
    release: bool
    """Whether the lease ends with it."""
    extend: float | None = None
    """The seconds that the lease lasts from then on; ``None``: it ends when it would have."""
    wake_at: WakeAt = KEEP


@dataclass(frozen=True, slots=True)
class Due:
    """Why a machine was claimed."""

    at: datetime
    """When its timer went off, or its lease expired."""
    lag: float
    """The seconds that it had to wait from then on, by the store's clock."""
    attempts: int
    """How often it was claimed since it was written last, this time included."""
    rearmed: bool
    """Whether its timer is now that of the claim, and no longer one that was set and is still to go off."""


@dataclass(slots=True)
class Grant:
    """What a store hands back with a lease: the machine as it was at that instant."""

    text: EncodedData | None
    version: int
    fence: int
    evicted: str | None = None
    """The trace of the expired lease that was taken over, empty where it has none; ``None``: there was none."""
    due: Due | None = None
    """Where it was claimed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Which machines are claimed: those that are due, or (``expired``) whose lease has expired, the oldest first."""

    limit: int
    status: str | None
    ttl: float
    max_attempts: int
    expired: bool
    secret: str
    """What the tokens of the leases begin with."""
    owner: str
    trace: str | None

    def token(self, number: int) -> str:
        return f"{self.secret}{number:05}"


MOST_DOUBLINGS = 10
"""A machine that is claimed in vain is due again after its ttl, then twice as long, and so on up to so often."""


class Claimed(NamedTuple):
    """A machine that was claimed."""

    id: str
    token: str
    grant: Grant


@dataclass(slots=True, kw_only=True)
class Resumption(Grant):
    """What it hands back with a lease that was granted before, and that somebody goes on with."""

    owner: str
    left: float
    """The seconds until it ends."""


LeaseRef = tuple[str, str, float]
"""A lease as a store knows it: id, token, ttl."""


class Joined(Protocol):
    """A transaction of the caller's that a step has joined."""

    @property
    def committed(self) -> bool | None:
        """Whether it was committed or rolled back; ``None``: it is open."""
