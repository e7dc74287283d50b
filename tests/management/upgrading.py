"""What the tests of the upgrades have upgraded, as a project would declare it."""

import signal
from dataclasses import dataclass
from typing import Any

from machine_memory import memory


@dataclass
class Order:
    total: int
    status: str = "new"


def in_cents(state: dict[str, Any]) -> dict[str, Any]:
    return {**state, "total": state["total"] * 100}


def told_to_end(*args: Any) -> None:
    """Stand in for a step that a SIGTERM comes in the midst of, if that is not the end of the tests."""
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    signal.raise_signal(signal.SIGTERM)


orders = memory.typed(Order, shape=2, upgrades={1: in_cents})
without_shape = memory.typed(Order)
