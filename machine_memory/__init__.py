"""Durable workflow state with a lease lock: one record, one atomic step, for Django."""

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
from machine_memory.records import LockInfo, Metadata, Record

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
    "ReadError",
    "Record",
    "SimpleMachineMemory",
    "StoreError",
    "UnknownOutcome",
    "VersionConflict",
    "WriteError",
    "memories",
    "memory",
]
