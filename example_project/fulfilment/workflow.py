"""The workflow of an order, in both editions that are in use."""

from typing import ClassVar

from statemachine import State, StateMachine


class Workflow(StateMachine):
    """The definition of a machine. What it defines is never changed once it is in use: the next edition is."""

    workflow: ClassVar[str]
    edition: ClassVar[int]
    """Arvo's version of a machine; by another name, as the version of a machine counts its writes here."""

    @classmethod
    def key(cls) -> str:
        """Name workflow and edition, as the state of a machine does."""
        return f"{cls.workflow}/{cls.edition}"

    @classmethod
    def event_names(cls) -> list[str]:
        """Return the names of the events that it knows, in the order in which they are declared."""
        return [event.id for event in cls().events]


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
    """With a packing station."""

    workflow = "fulfilment"
    edition = 2

    placed = State(initial=True)
    paid = State()
    picked = State()
    packed = State()
    shipped = State()
    delivered = State(final=True)

    pay = placed.to(paid)
    pick = paid.to(picked)
    pack = picked.to(packed)
    ship = packed.to(shipped)
    deliver = shipped.to(delivered)
