"""How workers die: by SIGKILL in the middle of a batch, as planned."""

import os
import signal

from example_project.fulfilment.events import Step
from example_project.fulfilment.models import Kill
from machine_memory import Batch


class Executioner:
    """Looks on while a worker goes through its cycles, and kills it where that is planned."""

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._plan = list(Kill.objects.planned().order_by("pk"))

    def __call__(self, step: Step, batch: Batch) -> None:
        left = {lease.id: lease.fence for lease in batch if lease.id not in batch.committed}
        for kill in [kill for kill in self._plan if _is_due(kill, step, batch)]:
            self._plan.remove(kill)
            if Kill.objects.claim(kill, left=left, worker=self._worker):
                # Nothing of the process runs after this: no `finally`, no unlock, no closing of the database.
                os.kill(os.getpid(), signal.SIGKILL)


def _is_due(kill: Kill, step: Step, batch: Batch) -> bool:
    return kill.step == step and kill.order in batch and batch[kill.order].version >= kill.version
