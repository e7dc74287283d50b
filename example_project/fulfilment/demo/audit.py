"""Compare what the workers acknowledged with what the machines remember."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from example_project.fulfilment.events import Outcome
from example_project.fulfilment.models import Delivery, Kill
from machine_memory import Record, memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    completed: int
    """Orders that came to their end."""
    handled: int
    outcomes: Counter[str]
    denied: int
    waiting: int
    kills: Counter[str]
    """How many workers died, by step."""
    taken_over: int
    lost: list[str]
    """Each update that was lost, or made twice, in a sentence."""

    def passed(self, *, orders: int, kills: int) -> bool:
        complete = self.completed == orders and not self.waiting
        return complete and not self.lost and self.kills.total() == self.taken_over == kills


def audit() -> Audit:
    """Look at the inbox and at the machines, after all workers have ended."""
    deliveries = list(Delivery.objects.order_by("order", "pk"))
    by_order = defaultdict(list)
    for delivery in deliveries:
        by_order[delivery.order].append(delivery)
    records = {order: memory.record(order) for order in by_order}
    written = [record for record in records.values() if record]
    kills = list(Kill.objects.done())
    return Audit(
        completed=sum(record.status == "done" for record in written),
        handled=sum(len(_history(record)) for record in written),
        outcomes=Counter(delivery.outcome for delivery in deliveries),
        denied=sum(delivery.denied for delivery in deliveries),
        waiting=Delivery.objects.waiting().count(),
        kills=Counter(kill.step for kill in kills),
        taken_over=sum(_is_taken_over(kill, records.get(kill.order)) for kill in kills),
        lost=[sentence for order in by_order for sentence in _lost(order, records[order], by_order[order])],
    )


def _history(record: Record) -> list[str]:
    history: list[str] = record.data["events"]
    return history


def _is_taken_over(kill: Kill, record: Record | None) -> bool:
    return record is not None and kill.fence is not None and record.fence > kill.fence


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
