"""A worker: it takes what waits in the inbox, in no order, until nothing does."""

import time
from collections.abc import Callable

from example_project.fulfilment.events import Outcome
from example_project.fulfilment.models import Delivery
from example_project.fulfilment.orchestrator import Observer, Orchestrator, create_arvo_orchestrator
from example_project.fulfilment.workflow import Fulfilment1, Fulfilment2
from machine_memory import memory

EXECUTION_UNITS = 1
LEASE_TTL = 2.0
"""Seconds: hundreds of times what a cycle takes, and how long the order of a worker that died has to wait."""
BATCH = 5
PAUSE = 0.2
"""Seconds to wait where every order of a batch was somebody else's."""


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
    """Handle what waits, until nothing does or ``stopped`` says so."""
    orchestrator = new_orchestrator(observe)
    while not stopped() and (batch := list(Delivery.objects.waiting().order_by("?")[:BATCH])):
        outcomes = {handle(delivery, orchestrator, name) for delivery in batch}
        if outcomes == {Outcome.DENIED}:
            time.sleep(PAUSE)


def handle(delivery: Delivery, orchestrator: Orchestrator, worker: str) -> Outcome:
    """Handle a delivery, then acknowledge it or send it back."""
    # In this order, as no transaction joins the inbox with a memory in Redis: a worker that dies in between leaves a
    # delivery that comes again, as a duplicate. The other way round, an event might be acknowledged and never written.
    result = orchestrator.handle(delivery.as_event())
    if result.outcome == Outcome.DENIED:
        Delivery.objects.send_back(delivery)
    else:
        Delivery.objects.acknowledge(delivery, result, worker=worker)
    return result.outcome
