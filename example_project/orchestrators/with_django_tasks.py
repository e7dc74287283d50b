"""Django Tasks (6.0): tasks that come again when an order is free, and steps that survive the death of a worker.

TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}     # or another that can defer

python manage.py shell -c "
from example_project.orchestrators.with_django_tasks import advance
advance.enqueue('order-4', 'pay', 'payment-17')"
python manage.py db_worker
"""

from datetime import datetime, timedelta
from typing import Any

from django.tasks import task
from django.utils import timezone

from machine_memory import LockDenied, LockError, LockLost, Metadata, ReadError, WriteError, memory

TTL = 30
"""Seconds: many times what a task takes, and how long the order of a worker that died has to wait."""
NEXT = {("placed", "pay"): "paid", ("placed", "cancel"): "cancelled", ("ready", "ship"): "shipped"}
STEPS = {"paid": "packed", "packed": "labelled", "labelled": "ready"}
"""What happens by itself to an order that was paid."""
NOW, NEVER = timedelta(0), None


@task
def advance(order: str, event: str, event_id: str) -> str:
    """Handle an event, once however often it comes, and return the state that the order is in."""
    try:
        with memory.lease(order, ttl=TTL) as lease:
            data: dict[str, Any] = lease.data or {"state": "placed", "events": []}
            if event_id not in data["events"]:
                data["state"] = NEXT.get((data["state"], event), data["state"])
                data["events"].append(event_id)
                wake_at = NOW if data["state"] in STEPS else NEVER
                lease.commit(data, metadata=Metadata(status=data["state"]), wake_at=wake_at)
            return str(data["state"])
    except (LockDenied, LockLost, LockError, ReadError, WriteError):
        # Somebody else has it, or the store failed; what was written all the same is known by the event's id.
        advance.using(run_after=free_at(order)).enqueue(order, event, event_id)
        return "later"


def free_at(order: str) -> datetime:
    """Return when to try again: at the end of the lease of whoever has the order, and soon where nobody has."""
    try:
        holder = memory.holder(order)
    except ReadError:
        return timezone.now() + timedelta(seconds=TTL)
    return holder.expires_at if holder else timezone.now() + timedelta(seconds=1)


# No backend has to bring back a task whose worker was killed. A machine comes back by itself: what is due is claimed,
# which sets its timer to the end of the lease, and a task goes on with that lease. Where none ends it, it is due again.


@task
def dispatch(limit: int = 100) -> int:
    """Hand each order that is due to a task, with its lease, and return how many: to be run every few seconds."""
    with memory.claim(limit, ttl=TTL) as due:  # of any status: this memory keeps these orders and nothing else
        for lease in due:
            step.enqueue(lease.detach())  # Whoever has this text is the holder.
        return len(due)


@task
def step(text: str) -> str:
    """Take the next step of an order, and return the state that it is in."""
    try:
        with memory.attach(text, ttl=TTL) as lease:
            data = {**lease.data, "state": STEPS[lease.data["state"]]}
            wake_at = NOW if data["state"] in STEPS else NEVER
            lease.commit(data, metadata=Metadata(status=data["state"]), wake_at=wake_at)
            return str(data["state"])
    except LockLost:
        return "too late"  # It waited for longer than its lease: the order is due again.
