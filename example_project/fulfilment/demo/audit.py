"""Compare what the workers acknowledged with what the machines remember."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from example_project.fulfilment.events import Outcome, Step
from example_project.fulfilment.models import Delivery, Kill
from machine_memory import Record, memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    completed: int
    """Orders that were delivered."""
    cancelled: int
    """Orders that came to the other end, as their time to pay was up."""
    handled: int
    """Events that came from outside."""
    outcomes: Counter[str]
    denied: int
    waiting: int
    kills: Counter[str]
    """How many workers died, by step."""
    taken_over: int
    """Leases that they held, and that others got later: all but those of orders that were complete already."""
    stranded: int
    """Leases among them of an order that was still to be advanced, and that nobody got."""
    lost: list[str]
    """Each update that was lost, or made twice, in a sentence."""
    due: int
    """Orders whose payment never came."""
    fired: int
    mistimed: list[str]
    """Each timer that was lost, or fired twice or for nothing, in a sentence."""

    def passed(self, *, orders: int, kills: int) -> bool:
        complete = self.completed + self.cancelled == orders and not self.waiting
        return complete and not self.lost and not self.mistimed and self.kills.total() == kills and not self.stranded


def audit() -> Audit:
    """Look at the inbox and at the machines, after all workers have ended."""
    deliveries = list(Delivery.objects.order_by("order", "pk"))
    by_order = defaultdict(list)
    for delivery in deliveries:
        by_order[delivery.order].append(delivery)
    records = {order: memory.record(order) for order in by_order}
    written = [record for record in records.values() if record]
    fired = Counter({record.id: _history(record).count(f"{record.id}:cancel") for record in written})
    unpaid = Delivery.objects.unpaid()
    kills = list(Kill.objects.done())
    return Audit(
        completed=sum(record.data["state"] == "delivered" for record in written),
        cancelled=sum(record.data["state"] == "cancelled" for record in written),
        handled=sum(len(_history(record)) for record in written) - fired.total(),
        outcomes=Counter(delivery.outcome for delivery in deliveries),
        denied=sum(delivery.denied for delivery in deliveries),
        waiting=Delivery.objects.waiting().count(),
        kills=Counter(kill.step for kill in kills),
        taken_over=sum(_is_taken_over(kill, order, records) for kill in kills for order in kill.left or ()),
        stranded=sum(not _is_taken_over(kill, kill.order, records) for kill in kills if kill.step == Step.LOCKED),
        lost=[sentence for order in by_order for sentence in _lost(order, records[order], by_order[order])],
        due=len(unpaid),
        fired=fired.total(),
        mistimed=[
            f"The timer of {order} fired {fired[order]} times instead of {order in unpaid:d}."
            for order in by_order
            if fired[order] != (order in unpaid)
        ],
    )


def _history(record: Record) -> list[str]:
    history: list[str] = record.data["events"]
    return history


def _is_taken_over(kill: Kill, order: str, records: Mapping[str, Record | None]) -> bool:
    record = records.get(order)
    return record is not None and kill.left is not None and record.fence > kill.left[order]


def _lost(order: str, record: Record | None, deliveries: list[Delivery]) -> list[str]:
    if record is None:
        return [f"{order} has no state."]
    history = _history(record)
    # A lost update also moves those after it, which are not to be counted again.
    return [*_missing(history, deliveries), *_doubled(history)] or [*_misplaced(record, history, deliveries)]


def _missing(history: list[str], deliveries: list[Delivery]) -> Iterator[str]:
    acknowledged = {delivery.event: delivery.worker for delivery in deliveries if delivery.handled_at}
    for event, worker in acknowledged.items():
        if event not in history:
            yield f"{event} was acknowledged by {worker}, and is lost."


def _doubled(history: list[str]) -> Iterator[str]:
    for event, times in Counter(history).items():
        if times > 1:
            yield f"{event} was handled {times} times."


def _misplaced(record: Record, history: list[str], deliveries: list[Delivery]) -> Iterator[str]:
    if record.version != len(history):
        yield f"{record.id} is at version {record.version}, and remembers {len(history)} events."
    for delivery in deliveries:
        wrote = delivery.outcome in {Outcome.HANDLED, Outcome.EARLY}
        if wrote and history.index(delivery.event) + 1 != delivery.version:
            yield f"{delivery.event} was written as version {delivery.version}, which is another event now."
