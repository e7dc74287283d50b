"""The purges as tasks of Django's own framework (6.0 and later), for a worker and a schedule to run."""

from typing import Any

import django

from machine_memory.handler import memories
from machine_memory.validation import duration

if django.VERSION >= (6, 0):
    from django.tasks import task
else:

    def task(function: Any) -> Any:  # type: ignore[no-redef]
        return function  # Celery, too, imports the tasks of every app.


@task
def purge_expired_locks(*, memory: str = "default", older_than: str = "0") -> dict[str, int]:
    """Tidy up after workers that died with a lease, and return the counts."""
    result = memories[memory].purge_expired_locks(older_than=duration(older_than, "older_than"))
    return {"cleared": result.cleared, "deleted": result.deleted}


@task
def purge_machines(*, status: str, idle: str, memory: str = "default", tree: bool = False) -> dict[str, int]:
    """Delete the state of machines that are done, and return the count."""
    result = memories[memory].purge_machines(status=status, idle=duration(idle, "idle"), tree=tree)
    return {"deleted": result.deleted}
