"""Purging the table in batches: short transactions on rows that nobody uses, with the condition in the statement."""

from collections import Counter
from collections.abc import Iterator

from django.db.models import Count, F, Q, Sum
from django.db.models.functions import Coalesce

from machine_memory.backends.database import batches
from machine_memory.backends.database.fields import StoredBytes
from machine_memory.backends.database.queries import NO_LEASE, MachineQuerySet
from machine_memory.core.records import PurgeResult, Retention

MOST_IDS = 2000
"""Of one statement: trees may be of any number of machines, and a database takes only so many parameters."""


def end_expired(machines: MachineQuerySet, *, older_than: float, batch_size: int) -> Iterator[PurgeResult]:
    """End leases that have been over for ``older_than`` seconds, and delete what was locked, but never written."""
    found, expired = batch_size, machines.expired(for_seconds=older_than).order_by("lease_expires_at")

    def batch() -> tuple[int, PurgeResult]:
        ids = list(_unused(expired).values_list("pk", flat=True)[:batch_size])
        rows = machines.filter(pk__in=ids).expired(for_seconds=older_than)
        with machines.by_key():
            deleted = rows.filter(version=0)._raw_delete(machines.db) if ids else 0
            return len(ids), PurgeResult(cleared=rows.update(**NO_LEASE), deleted=deleted)

    while found == batch_size and expired.exists():  # Nobody is to wait for a purge that has nothing to do.
        found, result = batches.done(machines, batch)
        yield result


def count_expired(machines: MachineQuerySet, *, older_than: float) -> PurgeResult:
    unwritten = Count("pk", filter=Q(version=0))
    expired = machines.expired(for_seconds=older_than)
    return PurgeResult(**expired.aggregate(deleted=unwritten, cleared=Count("pk") - unwritten))


def delete_retired(
    machines: MachineQuerySet, retention: Retention, *, batch_size: int, dry_run: bool
) -> Iterator[PurgeResult]:
    """Delete machines, or whole trees, by the order of their ids; as a dry run, only count them."""
    after, found = "", batch_size
    retired = machines.retired(retention.status, idle=retention.idle)
    candidates = (retired.filter(pk=F("root")) if retention.tree else retired).order_by("pk")

    def batch() -> tuple[list[str], PurgeResult]:
        first = _unused(candidates.filter(pk__gt=after), dry_run=dry_run)
        ids = going = list(first.values_list("pk", flat=True)[:batch_size])
        if retention.tree:
            going = _whole_trees(machines, retired, ids, dry_run=dry_run)
        result = PurgeResult()
        for start in range(0, len(going), MOST_IDS):
            rows = retired.filter(pk__in=going[start : start + MOST_IDS])
            if dry_run:
                counts = rows.aggregate(deleted=Count("pk"), bytes=Coalesce(Sum(StoredBytes("data")), 0))
                result += PurgeResult(**counts)
            else:
                with machines.by_key():
                    result += PurgeResult(deleted=rows._raw_delete(machines.db))
        return ids, result

    while found == batch_size and candidates.filter(pk__gt=after).exists():  # As above.
        ids, result = batch() if dry_run else batches.done(machines, batch)
        found, after = len(ids), ids[-1] if ids else ""
        yield result


def _whole_trees(machines: MachineQuerySet, retired: MachineQuerySet, roots: list[str], *, dry_run: bool) -> list[str]:
    """Return the ids of the trees that may go as a whole."""
    of_trees = Q(pk__in=roots) | Q(root__in=roots, parent__isnull=False)
    going = dict(_unused(retired.filter(of_trees), dry_run=dry_run).values_list("pk", "root"))
    # Counted once these are kept: a machine that was in use, or came meanwhile, makes the difference.
    sizes = Counter(machines.filter(of_trees).values_list("root", flat=True))
    gone = Counter(going.values())
    return [id for id, root in going.items() if gone[root] == sizes[root]]


def _unused(rows: MachineQuerySet, *, dry_run: bool = False) -> MachineQuerySet:
    """Keep the rows until the batch is done, and pass over those that somebody else works on."""
    return rows if dry_run else rows.unused()
