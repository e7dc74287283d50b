"""Machines as rows of the model, which pages show alike: those of a database, and what another store has found."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import fields
from typing import Any

from machine_memory import exceptions as errors
from machine_memory.admin.memories import Name
from machine_memory.core.failures import MACHINES
from machine_memory.core.records import Machine, Sought
from machine_memory.core.store import as_state
from machine_memory.core.validation import machine_id
from machine_memory.handler import memories
from machine_memory.models import MachineRecord

COLUMNS = [field.name for field in fields(Machine) if field.name != "now"]


def rows_of(alias: str, model: Any = MachineRecord) -> Any:
    """Return the rows of a memory in a database, without their state; of any other, none."""
    database = memories[alias].store.database
    machines = model._default_manager.using(database)
    return machines.none() if database is None else machines.with_lease_state().defer("data")


def named(alias: str, rows: Iterable[Any]) -> Iterator[Any]:
    """Yield rows with their ``name``."""
    for row in rows:
        row.name = Name(alias, row.pk)
        yield row


def rows_at(alias: str, ids: Collection[str], *, with_data: bool = False) -> Iterator[Any]:
    """Yield those of these machines that are there. Raises ``ReadError``, and of a database its own errors."""
    memory = memories[alias]
    if memory.store.database is not None:
        rows = rows_of(alias).filter(pk__in=ids)
        yield from named(alias, rows.defer(None) if with_data else rows)
    elif possible := [id for id in ids if _is_possible(id)]:
        with memory.steps("look", MACHINES, errors.ReadError, "read") as step:
            machines = memory.store.look_at(possible, with_data=with_data)
            step.outcome = "hit" if machines else "miss"
        yield from named(alias, map(_row, machines))


def text_of(name: Name) -> str | None:
    """Return the state of a machine as it is stored; ``None``: there is none. Raises ``ReadError``."""
    if not _is_possible(name.id):
        return None
    memory = memories[name.memory]
    with memory.steps("export", MACHINES, errors.ReadError, "read") as step:
        machines = memory.store.export([name.id])
        step.outcome = "hit" if machines else "miss"
    return machines[0].text if machines else None


def found(alias: str, sought: Sought, start: str, limit: int) -> tuple[list[Any], str]:
    """Return what one look at a memory in no database finds, and where the next one starts. Raises ``ReadError``."""
    memory = memories[alias]
    with memory.steps("look", MACHINES, errors.ReadError, "read") as step:
        machines, further = memory.store.look(sought, start, limit)
        step.outcome = "hit" if machines else "miss"
    return list(named(alias, map(_row, machines))), further


def _is_possible(id: str) -> bool:
    try:
        machine_id(id)
    except errors.InvalidMachineId:
        return False
    return True


def _row(machine: Machine) -> Any:
    as_state(machine.id, machine.data)
    row: Any = MachineRecord(**{name: getattr(machine, name) for name in COLUMNS})
    row.now, row.lease_state = machine.now, machine.lease_state
    return row
