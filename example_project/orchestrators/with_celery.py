"""Celery: a task that comes again until it has had its order, and that no death of a worker loses.

    DJANGO_SETTINGS_MODULE=example_project.settings CELERY_BROKER_URL=redis://127.0.0.1:6379/0 \\
        celery -A example_project.orchestrators.with_celery worker
"""

import random
from datetime import UTC, datetime
from typing import Any

from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded

from machine_memory import LockDenied, LockError, LockLost, Metadata, ReadError, WriteError, memory

SOFT_TIME_LIMIT, TIME_LIMIT, TTL = 20, 25, 30
"""Seconds, in this order: a lease that outlives its task need not be kept alive, and ends soon after a death."""
PAUSE = 1.0
"""Seconds at most, at random, so that those who wait for one order do not all come at once."""
NEXT = {("placed", "pay"): "paid", ("paid", "ship"): "shipped", ("placed", "cancel"): "cancelled"}

app = Celery("orders")
app.config_from_object("django.conf:settings", namespace="CELERY")


def work(data: dict[str, Any], event: str) -> None:
    """Do what the event asks for. It may be done again, by the same task id: what is done elsewhere goes by that."""
    data["state"] = NEXT.get((data["state"], event), data["state"])


@app.task(
    bind=True,
    acks_late=True,  # The message stays until the task has ended,
    reject_on_worker_lost=True,  # and goes back where its process was killed.
    soft_time_limit=SOFT_TIME_LIMIT,  # Nothing is written, the lease is given back, and it comes again.
    time_limit=TIME_LIMIT,  # For Celery it has failed then, and does not: see that the soft limit is enough.
    max_retries=None,
)
def advance(self: Any, order: str, event: str) -> str:
    """Handle an event, once however often it is delivered, and return the state that the order is in."""
    try:
        with memory.lease(order, ttl=TTL) as lease:
            data: dict[str, Any] = lease.data or {"state": "placed", "done": []}
            # The id of a task is the same each time it comes.
            if self.request.id not in data["done"]:
                work(data, event)
                data["done"].append(self.request.id)
                lease.commit(data, metadata=Metadata(status=data["state"]))
            return str(data["state"])
    except LockDenied:
        raise self.retry(countdown=left(order) + random.uniform(0, PAUSE)) from None
    except (LockLost, SoftTimeLimitExceeded):
        # It took too long: nothing was written, and another worker may have taken over.
        raise self.retry(countdown=random.uniform(0, PAUSE)) from None
    except (LockError, ReadError, WriteError) as failure:
        # The store failed: longer each time. What was written all the same is known by the id.
        raise self.retry(exc=failure, countdown=min(2**self.request.retries, TTL) + random.uniform(0, PAUSE)) from None


def left(order: str) -> float:
    """Return the seconds until whoever has an order gives it back, or has died, by the store's clock."""
    try:
        holder = memory.holder(order)
    except ReadError:
        return TTL
    return max(0, (holder.expires_at - datetime.now(UTC)).total_seconds()) if holder else 0
