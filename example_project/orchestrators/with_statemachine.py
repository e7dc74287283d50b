"""python-statemachine: the state chart says what may happen, and the memory keeps the state.

python manage.py shell -c "
from example_project.orchestrators.with_statemachine import advance
print(advance('order-1', 'pay', 'payment-17'))"
"""

from dataclasses import asdict, dataclass, field

from statemachine import State, StateMachine

from machine_memory import Metadata, memory

TTL = 30
"""Seconds: many times what a transition takes, and how long the order of a worker that died has to wait."""


@dataclass
class Order:
    """What is stored of an order; python-statemachine keeps its state in ``state``."""

    state: str | None = None
    events: list[str] = field(default_factory=list)
    """The ids of the events that were handled."""
    receipt: str | None = None


# Not a StateChart: that passes over events that are not allowed, and takes exceptions in callbacks for events.
class Fulfilment(StateMachine):
    placed = State(initial=True)
    paid = State()
    shipped = State(final=True)
    cancelled = State(final=True)

    pay = placed.to(paid)
    ship = paid.to(shipped)
    cancel = placed.to(cancelled) | paid.to(cancelled)

    def on_pay(self, event_id: str, fence: int) -> None:
        # Before the commit, so it may happen again: what is done elsewhere goes by the id of the event. An outside
        # system that keeps the highest fence that it has seen also tells the zombies by theirs, which is lower.
        self.model.receipt = f"{event_id} under {fence}"


def advance(order: str, event: str, event_id: str) -> str | None:
    """Handle an event, once however often it comes, and return the state that the order is in.

    Raises ``LockDenied`` where another worker is on this order, ``LockLost`` where one took over meanwhile: let the
    event come again. ``TransitionNotAllowed`` where the event does not fit the state. Nothing was changed.
    """
    with memory.lease(order, ttl=TTL) as lease:
        model = Order(**lease.data or {})
        if event_id not in model.events:
            Fulfilment(model).send(event, event_id=event_id, fence=lease.fence)
            model.events.append(event_id)
            lease.commit(asdict(model), metadata=Metadata(status=model.state))
        return model.state
