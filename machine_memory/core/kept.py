"""A machine as a mapping keeps it, and what others are told of it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from machine_memory.core.records import KEEP, Change, Claim, EncodedData, Grant, LockInfo, Metadata, Snapshot


@dataclass(slots=True, kw_only=True)
class KeptLease:
    token: str
    owner: str
    trace: str | None
    locked_at: float
    expires_at: float


@dataclass(slots=True, kw_only=True)
class Kept:
    fence: int
    created_at: float
    data: str = "null"
    version: int = 0
    metadata: Metadata = field(default_factory=Metadata)
    root: str = ""
    written_at: float = 0.0
    lease: KeptLease | None = None
    wake_at: float | None = None
    attempts: int = 0

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Kept":
        """Return what ``dataclasses.asdict`` has taken apart."""
        metadata, lease = Metadata(**fields["metadata"]), fields["lease"]
        return cls(**{**fields, "metadata": metadata, "lease": KeptLease(**lease) if lease else None})


def merged(machine: Kept, new: Metadata) -> Metadata:
    old = machine.metadata
    return Metadata(
        status=new.status or old.status,
        source=new.source or old.source,
        initiator=new.initiator or old.initiator,
        parent=old.parent if machine.version else new.parent,
    )


def known(machine: Kept) -> dict[str, Any]:
    times = {
        "created_at": utc(machine.created_at),
        "written_at": utc(machine.written_at) if machine.version else None,
    }
    counted = {"version": machine.version, "fence": machine.fence}
    return {**counted, **asdict(machine.metadata), "root": machine.root, **times}


def snapshot(id: str, machine: Kept) -> Snapshot:
    wake_at = None if machine.wake_at is None else utc(machine.wake_at)
    return Snapshot(id=id, text=machine.data, wake_at=wake_at, attempts=machine.attempts, **known(machine))


def wakes(machine: Kept, change: Change, now: float) -> float | None:
    if change.wake_at is KEEP:
        return machine.wake_at
    if isinstance(change.wake_at, timedelta):
        return now + change.wake_at.total_seconds()
    return change.wake_at.timestamp() if change.wake_at else None


def due_at(machine: Kept, claim: Claim) -> float | None:
    if not claim.expired:
        return machine.wake_at
    return machine.lease.expires_at if machine.lease and machine.attempts < claim.max_attempts else None


def grant(machine: Kept, evicted: str | None = None) -> Grant:
    text = EncodedData(machine.data) if machine.version else None
    return Grant(text, machine.version, machine.fence, evicted)


def lock_info(id: str, machine: Kept, lease: KeptLease) -> LockInfo:
    locked_at, expires_at = utc(lease.locked_at), utc(lease.expires_at)
    return LockInfo(id=id, owner=lease.owner, fence=machine.fence, locked_at=locked_at, expires_at=expires_at)


def utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
