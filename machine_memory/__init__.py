"""Durable workflow state with a lease lock: one record, one atomic step, for Django."""

from typing import TYPE_CHECKING, Any

from machine_memory.backends.database import DatabaseMachineMemory
from machine_memory.backends.simple import SimpleMachineMemory
from machine_memory.core.annotations import TypedBatch, TypedLease, TypedMemory
from machine_memory.core.batch import Batch
from machine_memory.core.lease import Lease
from machine_memory.core.memory import BaseMachineMemory
from machine_memory.core.records import KEEP, LockInfo, Metadata, PurgeResult, Record, Summary, WakeAt
from machine_memory.exceptions import (
    CommitRefused,
    CorruptRecord,
    InvalidConfiguration,
    InvalidData,
    InvalidLease,
    InvalidMachineId,
    InvalidTTL,
    InvalidVersion,
    LeaseError,
    LockDenied,
    LockError,
    LockInTransaction,
    LockLost,
    LockNotHeld,
    MachineMemoryError,
    NewerShape,
    ReadError,
    StoreError,
    UnknownOutcome,
    VersionConflict,
    WriteError,
    WrongShape,
)
from machine_memory.handler import DEFAULT_MEMORY_ALIAS, memories, memory

if TYPE_CHECKING:
    from machine_memory.backends.redis import RedisMachineMemory

__all__ = [
    "DEFAULT_MEMORY_ALIAS",
    "KEEP",
    "BaseMachineMemory",
    "Batch",
    "CommitRefused",
    "CorruptRecord",
    "DatabaseMachineMemory",
    "InvalidConfiguration",
    "InvalidData",
    "InvalidLease",
    "InvalidMachineId",
    "InvalidTTL",
    "InvalidVersion",
    "Lease",
    "LeaseError",
    "LockDenied",
    "LockError",
    "LockInTransaction",
    "LockInfo",
    "LockLost",
    "LockNotHeld",
    "MachineMemoryError",
    "Metadata",
    "NewerShape",
    "PurgeResult",
    "ReadError",
    "Record",
    "RedisMachineMemory",
    "SimpleMachineMemory",
    "StoreError",
    "Summary",
    "TypedBatch",
    "TypedLease",
    "TypedMemory",
    "UnknownOutcome",
    "VersionConflict",
    "WakeAt",
    "WriteError",
    "WrongShape",
    "memories",
    "memory",
]


def __getattr__(name: str) -> Any:
    if name == "RedisMachineMemory":  # Only who uses it needs redis.
        from machine_memory.backends.redis import RedisMachineMemory  # noqa: PLC0415

        return RedisMachineMemory
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
