"""How annotations name what a typed memory hands out."""

from typing import TypeAlias, TypeVar

from machine_memory.core.batch import Batch
from machine_memory.core.lease import Lease
from machine_memory.core.memory import BaseMachineMemory

T = TypeVar("T")

TypedMemory: TypeAlias = BaseMachineMemory[T, T, T | None]
TypedLease: TypeAlias = Lease[T, T | None]
TypedBatch: TypeAlias = Batch[T, T | None]
