"""Durable workflow state with a lease lock: one record, one atomic step, for Django."""

from typing import TYPE_CHECKING, Any

from machine_memory.backends.base import BaseMachineMemory
from machine_memory.backends.database import DatabaseMachineMemory
from machine_memory.backends.simple import SimpleMachineMemory
from machine_memory.exceptions import (
    CorruptRecord,
    InvalidConfiguration,
    InvalidData,
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
    ReadError,
    StoreError,
    UnknownOutcome,
    VersionConflict,
    WriteError,
)
from machine_memory.handler import DEFAULT_MEMORY_ALIAS, memories, memory
from machine_memory.lease import Lease
from machine_memory.records import LockInfo, Metadata, PurgeResult, Record

if TYPE_CHECKING:
    from machine_memory.backends.redis import RedisMachineMemory

__all__ = [
    "DEFAULT_MEMORY_ALIAS",
    "BaseMachineMemory",
    "CorruptRecord",
    "DatabaseMachineMemory",
    "InvalidConfiguration",
    "InvalidData",
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
    "PurgeResult",
    "ReadError",
    "Record",
    "RedisMachineMemory",
    "SimpleMachineMemory",
    "StoreError",
    "UnknownOutcome",
    "VersionConflict",
    "WriteError",
    "memories",
    "memory",
]


def __getattr__(name: str) -> Any:
    if name == "RedisMachineMemory":  # Only who uses it needs redis.
        from machine_memory.backends.redis import RedisMachineMemory  # noqa: PLC0415

        return RedisMachineMemory
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
