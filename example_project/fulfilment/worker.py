"""A worker: it takes what waits in the inbox, in no order, and the machines whose time is up."""

import time
from collections.abc import Callable, Iterable

from django.db import transaction

from example_project.fulfilment.events import Outcome
from example_project.fulfilment.models import Delivery
from example_project.fulfilment.orchestrator import Observer, Orchestrator, create_arvo_orchestrator
from example_project.fulfilment.workflow import Fulfilment1, Fulfilment2
from machine_memory import memory

EXECUTION_UNITS = 1
LEASE_TTL = 2.0
"""Seconds: hundreds of times what a cycle takes, and how long the orders of a worker that died have to wait."""
BATCH = 10
PAUSE = 0.2
"""Seconds to wait where there was nothing to do, or every order was somebody else's."""


def new_orchestrator(observe: Observer | None = None) -> Orchestrator:
    """Return one that knows the workflow in both editions."""
    return create_arvo_orchestrator(
        memory=memory,
        execution_units=EXECUTION_UNITS,
        machines=[Fulfilment1, Fulfilment2],
        observe=observe,
        ttl=LEASE_TTL,
    )


def work(name: str, *, stopped: Callable[[], bool], observe: Observer | None = None) -> None:
    """Handle what waits and what is due, until ``stopped`` says so."""
    orchestrator = new_orchestrator(observe)
    while not stopped():
        outcomes = handle(Delivery.objects.waiting().order_by("?")[:BATCH], orchestrator, name)
        # A payment that waits has come in time, however long it waits.
        late = orchestrator.time_out(BATCH, in_time=Delivery.objects.payments_that_wait)
        if outcomes <= {Outcome.DENIED} and not late:
            time.sleep(PAUSE)


def handle(deliveries: Iterable[Delivery], orchestrator: Orchestrator, worker: str) -> set[Outcome]:
    """Handle one delivery of each order, then acknowledge it or send it back; return what they came to."""
    # In this order, as no transaction joins the inbox with a memory in Redis: a worker that dies in between leaves
    # deliveries that come again, as duplicates. The other way round, an event might be acknowledged and never written.
    batch = {delivery.order: delivery for delivery in deliveries}
    results = orchestrator.handle_each(delivery.as_event() for delivery in batch.values())
    with transaction.atomic():
        for order, result in results.items():
            if result.outcome == Outcome.DENIED:
                Delivery.objects.send_back(batch[order])
            else:
                Delivery.objects.acknowledge(batch[order], result, worker=worker)
    return {result.outcome for result in results.values()}
