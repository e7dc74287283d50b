"""The doctor: what has to be asked of a store to know whether it is fit for machines."""

import sys
from collections.abc import Iterator
from functools import partial

from django.core.exceptions import ImproperlyConfigured

from machine_memory.backends.base import BaseMachineMemory
from machine_memory.backends.database import DatabaseMachineMemory
from machine_memory.doctor import findings
from machine_memory.doctor.findings import ERROR, OK, WARNING, Finding, Probe
from machine_memory.exceptions import InvalidConfiguration, MachineMemoryError
from machine_memory.handler import memories

__all__ = ["ERROR", "OK", "WARNING", "Finding", "examine"]

NEEDED = ("settings", "connection")
"""Where one of these cannot be looked at, nothing after it can."""


def examine(alias: str) -> Iterator[Finding]:
    """Yield what there is to say of a memory. What is written on the way is rolled back or removed."""
    try:
        memory = memories[alias]
    except InvalidConfiguration as error:
        yield Finding(alias, "settings", ERROR, str(error))
        return
    failures: tuple[type[Exception], ...] = (*memory.failures, MachineMemoryError, ImproperlyConfigured)
    for check, probe in _probes(memory):
        try:
            verdicts = list(probe())
        except failures as failure:
            yield Finding(alias, check, ERROR, _told(failure))
            if check in NEEDED:
                return
        else:
            yield from (Finding(alias, check, *verdict) for verdict in verdicts)


def _told(failure: Exception) -> str:
    if isinstance(failure, (MachineMemoryError, ImproperlyConfigured)):
        return str(failure)
    return f"The store failed to answer this ({type(failure).__name__})."  # A driver's own words may quote rows.


def _probes(memory: BaseMachineMemory) -> Iterator[tuple[str, Probe]]:
    yield "settings", partial(findings.messages, memory.check(deploy=False), "Nothing in the settings is against it.")
    yield from _probes_of_store(memory)
    yield "round trip", partial(findings.round_trip, memory)


def _probes_of_store(memory: BaseMachineMemory) -> Iterator[tuple[str, Probe]]:
    if isinstance(memory, DatabaseMachineMemory):
        from machine_memory.doctor import database  # noqa: PLC0415  # Models need the app registry.

        yield from database.probes(memory)
        return
    if "machine_memory.backends.redis" in sys.modules:  # Else no memory is in Redis, and redis may not be installed.
        from machine_memory.backends.redis import RedisMachineMemory  # noqa: PLC0415
        from machine_memory.doctor import redis  # noqa: PLC0415

        if isinstance(memory, RedisMachineMemory):
            yield from redis.probes(memory)
            return
    yield "deployment", partial(findings.messages, memory.check(deploy=True), "`check --deploy` has nothing to add.")
