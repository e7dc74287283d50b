"""The purges as tasks of Django's own framework (6.0 and later), for a worker and a schedule to run."""

from collections.abc import Callable
from typing import Any

import django

from machine_memory.core.memory import BaseMachineMemory
from machine_memory.core.records import PurgeResult
from machine_memory.core.validation import duration, quoted
from machine_memory.exceptions import MachineMemoryError
from machine_memory.handler import memories

if django.VERSION >= (6, 0):
    from django.tasks import task
else:

    def task(function: Any) -> Any:  # type: ignore[no-redef]
        return function  # Celery, too, imports the tasks of every app.


@task
def purge_expired_locks(*, memory: str | None = None, older_than: str = "0") -> dict[str, int]:
    """Tidy up after workers that died with a lease, in one memory or in each, and return the counts."""
    age = duration(older_than, "older_than")
    total = _summed(memory, lambda one: one.purge_expired_locks(older_than=age))
    return {"cleared": total.cleared, "deleted": total.deleted}


@task
def purge_machines(*, status: str, idle: str, memory: str | None = None, tree: bool = False) -> dict[str, int]:
    """Delete the state of machines that are done, in one memory or in each, and return the count."""
    age = duration(idle, "idle")
    return {"deleted": _summed(memory, lambda one: one.purge_machines(status=status, idle=age, tree=tree)).deleted}


def _summed(memory: str | None, purge: Callable[[BaseMachineMemory], PurgeResult]) -> PurgeResult:
    """Purge one memory, or each: what some of them raise is raised once all have had their turn."""
    if memory is not None:
        return purge(memories[memory])
    total, failures = PurgeResult(), []
    for alias in memories:
        try:
            total += purge(memories[alias])
        except MachineMemoryError as error:
            error.add_note(f"It was MACHINE_MEMORIES[{quoted(alias)}].")
            failures.append(error)
    if failures:
        raise ExceptionGroup("Some memories were not purged; the others are", failures)
    return total
