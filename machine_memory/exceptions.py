"""Every error that a memory can raise. Three outcomes never blur: got it, somebody else has it, the store failed."""

from collections.abc import Sequence
from typing import Any

from django.core.exceptions import ImproperlyConfigured


class MachineMemoryError(Exception):
    """The root of this package's errors."""


class InvalidMachineId(MachineMemoryError, ValueError):
    """An id is a non-empty str of at most 512 characters, without NUL or lone surrogates."""


class InvalidData(MachineMemoryError, ValueError):
    """Data is a mapping of JSON values that reads back equal, within the limits of the memory."""


class InvalidTTL(MachineMemoryError, ValueError):
    """A duration is a number of seconds or a timedelta; a ttl is between 10 ms and 24 h."""


class InvalidVersion(MachineMemoryError, ValueError):
    """An expected version is an int from 0 (no state yet)."""


class InvalidLease(MachineMemoryError, ValueError):
    """The text of a lease is what ``Lease.detach`` returned, whole and unchanged."""


class StoreError(MachineMemoryError):
    """The store failed; the driver's own error is chained as the cause."""


class ReadError(StoreError):
    """The store could not be read, after retries where they could help. It never means "no state"."""


class WriteError(StoreError):
    """The store refused or failed the one attempt, and nothing was written."""


class UnknownOutcome(WriteError):
    """The reply was lost: the write may have been applied. Read back and compare versions before writing again."""


class LockError(StoreError):
    """The store failed while locking. It never means "somebody else has it"."""


class CorruptRecord(StoreError):
    """The stored state is not a JSON object: something other than this package wrote it."""


class WrongShape(CorruptRecord):
    """The stored state does not fit the type that it is asked for as, and cannot be upgraded to it."""


class NewerShape(WrongShape):
    """Newer code wrote the stored state: leave the machine to a worker that runs it."""


class LeaseError(MachineMemoryError):
    """The lease does not allow this."""


class LockDenied(LeaseError):
    """The lease could not be had: somebody else holds the machine."""


class LockLost(LeaseError):
    """This context had the lease and has it no more. Lock again and start from the state that is stored now."""


class LockNotHeld(LeaseError):
    """Somebody else holds the machine, or a lease is required and this context has none."""


class VersionConflict(MachineMemoryError):
    """The stored version is not the expected one. Read again and decide anew."""


class LockInTransaction(MachineMemoryError):
    """A lease taken in an open transaction is invisible to others and gone after a rollback: a mistake, no outage."""


class CommitRefused(MachineMemoryError, ExceptionGroup[MachineMemoryError]):
    """Some machines of a batch were refused, and the others stored: acknowledge what was committed, nothing else."""

    def derive(self, errors: Sequence[Any], /) -> Any:
        return CommitRefused(self.message, errors)


class InvalidConfiguration(MachineMemoryError, ImproperlyConfigured):
    """A setting or an option of a memory is missing, unknown or out of range."""
