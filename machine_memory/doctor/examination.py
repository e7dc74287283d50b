"""Looking at a memory and its store, one question after the other."""

from collections.abc import Iterator
from functools import partial

from django.core.exceptions import ImproperlyConfigured

from machine_memory.core.memory import BaseMachineMemory
from machine_memory.core.store import Probe
from machine_memory.doctor import findings
from machine_memory.doctor.findings import ERROR, Finding
from machine_memory.exceptions import InvalidConfiguration, MachineMemoryError
from machine_memory.handler import memories

NEEDED = ("settings", "connection")
"""Where one of these cannot be looked at, nothing after it can."""


def examine(alias: str) -> Iterator[Finding]:
    """Yield what there is to say of a memory. What is written on the way is rolled back or removed."""
    try:
        memory = memories[alias]
    except InvalidConfiguration as error:
        yield Finding(alias, "settings", ERROR, str(error))
        return
    failures: tuple[type[Exception], ...] = (*memory.store.failures, MachineMemoryError, ImproperlyConfigured)
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
    check, said = memory.store.check, findings.messages
    yield "settings", lambda: said(check(deploy=False), "Nothing in the settings is against it.")
    probes = dict(memory.store.probes())
    yield from probes.items()
    if not probes:
        yield "deployment", lambda: said(check(deploy=True), "`check --deploy` has nothing to add.")
    yield "round trip", partial(findings.round_trip, memory)
