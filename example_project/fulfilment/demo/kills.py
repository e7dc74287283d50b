"""How workers die: by SIGKILL in the middle of a lease, as planned."""

import os
import signal

from example_project.fulfilment.events import Step
from example_project.fulfilment.models import Kill
from machine_memory import Lease


class Executioner:
    """Looks on while a worker goes through its cycles, and kills it where that is planned."""

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._plan = {(kill.order, kill.version, kill.step): kill for kill in Kill.objects.planned()}

    def __call__(self, step: Step, lease: Lease) -> None:
        kill = self._plan.get((lease.id, lease.version, step))
        if kill and Kill.objects.claim(kill, fence=lease.fence, worker=self._worker):
            # Nothing of the process runs after this: no `finally`, no unlock, no closing of the database.
            os.kill(os.getpid(), signal.SIGKILL)
