"""The workflow of an order, in both editions that are in use."""

from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

from statemachine import State, StateMachine


@dataclass(frozen=True, slots=True)
class Timeout:
    """What happens by itself to a machine that stays in a state for too long."""

    after: timedelta
    event: str


class Workflow(StateMachine):
    """The definition of a machine. What it defines is never changed once it is in use: the next edition is."""

    workflow: ClassVar[str]
    edition: ClassVar[int]
    """Arvo's version of a machine; by another name, as the version of a machine counts its writes here."""
    timeouts: ClassVar[dict[str, Timeout]] = {}
    """By the state that is left so."""

    @classmethod
    def key(cls) -> str:
        """Name workflow and edition, as the state of a machine does."""
        return f"{cls.workflow}/{cls.edition}"

    @classmethod
    def event_names(cls) -> list[str]:
        """Return the names of the events that come from outside, in the order in which they are declared."""
        by_itself = {timeout.event for timeout in cls.timeouts.values()}
        return [event.id for event in cls().events if event.id not in by_itself]


class Fulfilment1(Workflow):
    workflow = "fulfilment"
    edition = 1

    placed = State(initial=True)
    paid = State()
    picked = State()
    shipped = State()
    delivered = State(final=True)

    pay = placed.to(paid)
    pick = paid.to(picked)
    ship = picked.to(shipped)
    deliver = shipped.to(delivered)


class Fulfilment2(Workflow):
    """With a packing station, and with a time to pay in."""

    workflow = "fulfilment"
    edition = 2
    timeouts: ClassVar = {"placed": Timeout(after=timedelta(seconds=1), event="cancel")}  # A shop would say days.

    new = State(initial=True)
    placed = State()
    paid = State()
    picked = State()
    packed = State()
    shipped = State()
    delivered = State(final=True)
    cancelled = State(final=True)

    place = new.to(placed)
    pay = placed.to(paid)
    pick = paid.to(picked)
    pack = picked.to(packed)
    ship = packed.to(shipped)
    deliver = shipped.to(delivered)
    cancel = placed.to(cancelled)
