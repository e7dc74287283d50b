"""Copies of machines, on their way from one store to another."""

from collections.abc import Collection
from dataclasses import fields
from typing import Any

from django.db import IntegrityError, connections
from django.db.models import TextField, Value
from django.db.models.functions import Cast, Coalesce

from machine_memory.backends.database import batches
from machine_memory.backends.database.clock import Moment
from machine_memory.backends.database.fences import CopiedFence
from machine_memory.backends.database.queries import LEASE, LIVE, MachineQuerySet
from machine_memory.backends.database.sessions import refuse_unreplicated
from machine_memory.core.records import EncodedData, Snapshot

COLUMNS = [field.name for field in fields(Snapshot) if field.name != "text"]
CHANGED = ["data", *(name for name in COLUMNS if name != "id"), *LEASE]


def export(machines: MachineQuerySet, ids: Collection[str]) -> list[dict[str, Any]]:
    text = Coalesce(Cast("data", TextField()), Value("null", TextField()))
    return list(machines.written().filter(pk__in=ids).values(*COLUMNS, text=text))


def adopt(machines: MachineQuerySet, copies: Collection[Snapshot]) -> set[str]:
    """Insert what is absent, and update what is older, in one transaction."""
    # The error is that of a row which appeared meanwhile.
    adopted = batches.done(machines, lambda: _adopted(machines, copies), IntegrityError)
    refuse_unreplicated()
    return adopted


def _adopted(machines: MachineQuerySet, copies: Collection[Snapshot]) -> set[str]:
    # Kept until the end: what is seen here stands when it is changed.
    rows = machines.filter(pk__in=[copy.id for copy in copies]).order_by("pk").select_for_update()
    columns = rows.annotate(is_held=LIVE).values_list("pk", "version", "fence", "is_held")
    with machines.by_key():
        there = {id: rest for id, *rest in columns}
    absent = [_row(machines, copy, CopiedFence(copy.fence)) for copy in copies if copy.id not in there]
    older = []
    for copy in copies:
        version, fence, is_held = there.get(copy.id, (0, 0, True))
        if not is_held and copy.is_newer(version, fence):
            older.append(_row(machines, copy, max(copy.fence, fence)))
    machines.bulk_create(absent)
    targeted = connections[machines.db].features.supports_update_conflicts_with_target
    machines.bulk_create(
        older, update_conflicts=True, update_fields=CHANGED, unique_fields=["pk"] if targeted else None
    )
    return {row.pk for row in (*absent, *older)}


def _row(machines: MachineQuerySet, copy: Snapshot, fence: int | CopiedFence) -> Any:
    times = {name: Moment(getattr(copy, name)) for name in ("created_at", "written_at", "wake_at")}
    values = {name: getattr(copy, name) for name in COLUMNS}
    return machines.model(**{**values, **times, "fence": fence, "data": EncodedData(copy.text)})
