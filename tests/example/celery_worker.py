"""The worker of the example with Celery, whose work may last, under leases that are short."""

import os
import time
from pathlib import Path
from typing import Any

from example_project.orchestrators import with_celery
from example_project.orchestrators.with_celery import app, work

__all__ = ["app"]


def lasting(data: dict[str, Any], event: str) -> None:
    """Last for ever where the event is to, the first time that it comes."""
    try:
        (Path(os.environ["LASTING"]) / event).unlink()
    except FileNotFoundError:
        work(data, event)
    else:
        time.sleep(600)


with_celery.work = lasting
with_celery.TTL, with_celery.PAUSE = 4, 0.1
