"""The values that cross the boundary between a memory and its callers."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What a write says about a machine beside its data; what is absent stays as it is stored."""

    status: str | None = None
    source: str | None = None
    initiator: str | None = None
    parent: str | None = None
    """The id of the machine that started this one; kept from the first write on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The stored state of a machine, with everything that is known about it."""

    id: str
    data: dict[str, Any]
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
class LockInfo:
    """A live lease, as anybody may see it; times are in UTC, by the store's clock."""

    id: str
    owner: str
    fence: int
    locked_at: datetime
    expires_at: datetime


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
            cleared=self.cleared + other.cleared,
            deleted=self.deleted + other.deleted,
            bytes=self.bytes + other.bytes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """Which machines may go: of this status, not written for so long, not leased; with ``tree``, only whole trees."""

    status: str
    idle: float
    tree: bool


class EncodedData(str):
    """Data that has been checked and encoded; the JSON column stores it as it is."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A write that has been checked, on its way to a store: what it stores, and under which conditions."""

    id: str
    data: EncodedData
    metadata: Metadata
    token: str | None
    """Of the writer's lease; ``None``: it has none, and nobody else may have one."""
    expected_version: int | None
    release: bool
    """Whether the lease ends with it."""
    extend: float | None = None
    """The seconds that the lease lasts from then on; ``None``: it ends when it would have."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a store hands back with a lease: the machine as it was at that instant."""

    text: EncodedData | None
    version: int
    fence: int
    evicted: str | None = None
    """The trace of the expired lease that was taken over, empty where it has none; ``None``: there was none."""


class Joined(Protocol):
    """A transaction of the caller's that a step has joined."""

    @property
    def committed(self) -> bool | None:
        """Whether it was committed or rolled back; ``None``: it is open."""
