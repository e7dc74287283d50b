"""Fill the inbox with the events of old and new orders, shuffled and some of them twice; and plan who is to die."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import cycle
from random import Random

from django.db import transaction

from example_project.fulfilment.events import Step
from example_project.fulfilment.models import Delivery, Kill
from example_project.fulfilment.orchestrator import create_arvo_orchestrator
from example_project.fulfilment.worker import EXECUTION_UNITS, handle
from example_project.fulfilment.workflow import Fulfilment1, Fulfilment2
from machine_memory import memory

DUPLICATED = 0.25
"""The share of events that are delivered twice."""
OLD = 5
"""One order in so many began with the first edition of the workflow, and is in flight already."""
UNPAID = 20
"""One order in so many is never paid for."""
TIMED = 2
"""How many deaths at most are to hit the cancellation of an order, one for each step."""


@dataclass(frozen=True, slots=True)
class Order:
    number: int

    @property
    def id(self) -> str:
        return f"order-{self.number:04}"

    @property
    def is_old(self) -> bool:
        return self.number % OLD == 0

    @property
    def is_unpaid(self) -> bool:
        return self.number % UNPAID == 1

    @property
    def event_names(self) -> list[str]:
        names = (Fulfilment1 if self.is_old else Fulfilment2).event_names()
        return names[:1] if self.is_unpaid else names


def fill(*, orders: int, kills: int, random: Random) -> None:
    """Forget the last run and prepare the next one; ``kills``: at most one for each order."""
    new = [Order(number) for number in range(1, orders + 1)]
    _forget_last_run(new)
    _deliver(new, random)
    _begin(order for order in new if order.is_old)
    _plan_kills(new, kills, random)


def _forget_last_run(orders: Iterable[Order]) -> None:
    with transaction.atomic():
        # The memory first, as it may be another store, and the inbox knows which orders are there. It does not know
        # those that another inbox had in the same Redis.
        known = Delivery.objects.values_list("order", flat=True).distinct()
        for order in {*known, *(order.id for order in orders)}:
            memory.force_unlock(order)  # A run that was interrupted may have left its leases.
            memory.cleanup(order)
        Delivery.objects.all().delete()
        Kill.objects.all().delete()


def _deliver(orders: Iterable[Order], random: Random) -> None:
    deliveries = [
        Delivery(event=f"{order.id}:{name}", order=order.id, name=name)
        for order in orders
        for name in order.event_names
        for _ in range(2 if random.random() < DUPLICATED else 1)
    ]
    random.shuffle(deliveries)
    Delivery.objects.bulk_create(deliveries)


def _begin(orders: Iterable[Order]) -> None:
    """Let a release that knew the first edition alone handle the first event of these orders."""
    release = create_arvo_orchestrator(memory=memory, execution_units=EXECUTION_UNITS, machines=[Fulfilment1])
    first, *_ = Fulfilment1.event_names()
    handle(Delivery.objects.filter(order__in=[order.id for order in orders], name=first), release, "last year")


def _plan_kills(orders: list[Order], kills: int, random: Random) -> None:
    unpaid = [order for order in orders if order.is_unpaid]
    timed = random.sample(unpaid, min(TIMED, kills // 2, len(unpaid)))
    others = random.sample([order for order in orders if order not in timed], kills - len(timed))
    versions = {order: len(order.event_names) for order in timed} | {
        order: random.randrange(1 if order.is_old else 0, len(order.event_names)) for order in others
    }
    Kill.objects.bulk_create(
        Kill(order=order.id, version=version + (step == Step.COMMITTED), step=step)
        for (order, version), step in zip(versions.items(), cycle(Step), strict=False)
    )
