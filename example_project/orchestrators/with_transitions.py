"""transitions: the machine says what may happen, the memory keeps the state, and a timer ends what nobody pays for.

python manage.py shell -c "
from example_project.orchestrators.with_transitions import advance, cancel_unpaid
print(advance('order-2', 'place'), cancel_unpaid())"
"""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

from transitions import Machine

from machine_memory import CommitRefused, Metadata, memory

STATES = ["new", "placed", "paid", "shipped", "cancelled"]
TRANSITIONS: list[Any] = [
    ["place", "new", "placed"],
    ["pay", "placed", "paid"],
    ["ship", "paid", "shipped"],
    ["cancel", ["placed", "paid"], "cancelled"],
]
TIME_TO_PAY = timedelta(hours=48)
TTL = 30
"""Seconds: many times what a transition takes, and how long the order of a worker that died has to wait."""


class Order:
    """A model of transitions, which adds ``state`` and ``trigger``."""

    state: str
    trigger: Callable[[str], bool]


def _after(data: dict[str, Any] | None, event: str) -> dict[str, Any]:
    """Return what is stored of an order after an event. Raises ``MachineError`` where it does not fit the state."""
    data = data or {"state": "new"}
    order = Order()
    # One for each: a machine that all share would keep every model, and is not made for several threads.
    Machine(order, STATES, transitions=TRANSITIONS, initial=data["state"], auto_transitions=False)
    order.trigger(event)
    return {**data, "state": order.state}


def advance(order: str, event: str) -> str:
    """Handle an event and return the state that the order is in.

    Raises ``LockDenied`` where another worker is on this order, ``LockLost`` where one took over meanwhile: let the
    event come again. ``MachineError`` where the event does not fit the state. Nothing was changed.
    """
    with memory.lease(order, ttl=TTL) as lease:
        data = _after(lease.data, event)
        state: str = data["state"]
        wake_at = TIME_TO_PAY if state == "placed" else None
        lease.commit(data, metadata=Metadata(status=state), wake_at=wake_at)
        return state


def cancel_unpaid(limit: int = 100) -> list[str]:
    """Cancel orders whose time to pay is up, and return which: for cron, a periodic task or a loop.

    A worker that dies leaves its orders due: they are claimed again once its leases have ended.
    """
    with memory.claim(limit, status="placed", ttl=TTL) as due:
        data = {lease.id: _after(lease.data, "cancel") for lease in due}
        with suppress(CommitRefused):  # Somebody forced their release; the others are committed.
            due.commit(data, metadata=Metadata(status="cancelled"))
        return list(due.committed)
