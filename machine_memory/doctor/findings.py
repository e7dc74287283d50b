"""What the doctor finds, and what it looks at alike on every store."""

import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from django.core.checks import CheckMessage

from machine_memory.core.memory import BaseMachineMemory
from machine_memory.core.store import Verdict
from machine_memory.exceptions import MachineMemoryError, ReadError

OK, WARNING, ERROR = "ok", "warning", "error"
PREFIX = "machine_memory_doctor:"
"""Of every id that the doctor writes, and removes again."""
NOTICED, HARMFUL = 1, 30
"""Seconds between two clocks."""
MOST = 300
"""Characters of a driver's own words."""

host_time = time.time


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's: what was looked at, how bad it is, and what to do about it."""

    memory: str
    check: str
    level: str
    text: str


def messages(found: Iterable[CheckMessage], otherwise: str) -> list[Verdict]:
    """Return what the system checks say, or that they say nothing."""
    return [
        (ERROR if message.is_serious() else WARNING, f"{message.msg} {message.hint} ({message.id})")
        for message in found
    ] or [(OK, otherwise)]


def no_answer(where: str, failure: Exception, *passwords: str | None) -> ReadError:
    """Return the error that tells why a store could not be reached: of nothing else a driver's own words are told."""
    words = " ".join(str(failure).split())
    for password in filter(None, passwords):
        words = words.replace(password, "***")
    return ReadError(f"{where} does not answer ({type(failure).__name__}): {words[:MOST]}")


def clock(ask: Callable[[], float]) -> Iterator[Verdict]:
    """Compare the store's clock, in seconds since 1970, with this host's."""
    began, store, ended = host_time(), ask(), host_time()
    behind, ahead = began - store, store - ended  # What the way there and back explains is not held against it.
    apart = max(behind, ahead)
    if apart <= NOTICED:
        yield OK, "The store's clock is that of this host, to a second."
        return
    side = "behind" if behind > ahead else "ahead of"
    yield (
        ERROR if apart > HARMFUL else WARNING,
        f"The store's clock is {apart:,.1f} s {side} this host's: let NTP set both. Leases go by the store's alone, but"
        " the times that people compare do not fit, and fences begin at its time.",
    )


def round_trip(memory: BaseMachineMemory) -> Iterator[Verdict]:
    """Take a machine of the doctor's own through the verbs, and remove it."""
    id, taken = PREFIX + secrets.token_hex(8), []
    steps: dict[str, Callable[[], bool]] = {
        "lock": lambda: memory.lock(id),
        "read": lambda: memory.read(id) is None,
        "write": lambda: memory.write(id, {"status": "examined"}) == 1,
        "unlock": lambda: memory.unlock(id),
        "cleanup": lambda: memory.cleanup(id),
    }
    try:
        for name, step in steps.items():
            began = time.perf_counter()
            if not step():
                yield ERROR, f"{name} of a machine that nobody else knows did not do what it says."
                return
            taken.append(f"{name} {(time.perf_counter() - began) * 1000:.1f} ms")
        yield OK, ", ".join(taken) + "."
    finally:
        if len(taken) < len(steps):
            with suppress(MachineMemoryError):  # The ttl ends its lease.
                memory.cleanup(id)
