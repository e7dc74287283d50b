"""Lease and commit among many live leases, where the statistics are of a quieter hour."""

from django.db import connections

from benchmarks import databases
from benchmarks.contestants import ORM_FORM, OURS, Memory
from benchmarks.measure import Contestant
from benchmarks.order import order
from benchmarks.report import Bar, Cell, Section, Table
from benchmarks.run import Run
from machine_memory import DatabaseMachineMemory
from machine_memory.clock import StoreTime
from machine_memory.models import MachineRecord

FREE, LEASES = 1_000, 5_000
STEP = "cycle"
ALONE, CROWD = "alone", "crowd"
MOST = 1.2


def measured(run: Run) -> Section:
    names = databases.available()
    section = Section(
        "Crowd",
        f"A cycle at one of {FREE:,} free machines while nobody has a lease, and while {LEASES:,} others are leased, of"
        " which the statistics of the database know nothing yet. Ratios are against nobody.",
    )
    with databases.scratch(*names, *(f"{name}-{CROWD}" for name in names)):
        databases.fill_all(dict.fromkeys(names, FREE + LEASES), held=databases.NONE)
        databases.fill_all({f"{name}-{CROWD}": FREE + LEASES for name in names}, held=databases.NONE)
        for name in names:
            _lease_others(f"{name}-{CROWD}")
            contestants = [_contestant(name, form, place) for form in (OURS, ORM_FORM) for place in (ALONE, CROWD)]
            race = run.race(f"crowd, {databases.NAMES[name]}", contestants, share=2)
            rows: list[list[Cell]] = []
            for form in (OURS, ORM_FORM):
                alone, among = f"{form}, {ALONE}", f"{form}, {CROWD}"
                ratio = race.ratio(among, STEP, alone)
                rows.append([form, race.median(alone, STEP), race.median(among, STEP), ratio])
                what = f"{databases.NAMES[name]}: {form}, a cycle among {LEASES:,} live leases, against none"
                section.bars.append(Bar(what=what, measured=ratio, most=MOST))
            section.tables.append(Table(databases.NAMES[name], ["", "alone, µs", "crowd, µs", "ratio"], rows))
    return section


def _contestant(name: str, form: str, place: str) -> Contestant:
    alias = f"{name}-{CROWD}" if place == CROWD else name
    memory = Memory(DatabaseMachineMemory(using=alias, one_statement=form == OURS), order())
    return Contestant(name=f"{form}, {place}", steps={STEP: memory.cycle}, ids=databases.ids(FREE))


def _lease_others(alias: str) -> None:
    others = MachineRecord.objects.using(alias).filter(pk__gt=databases.machine_id(FREE))
    others.update(lease_token="0" * 32, lease_owner="another", lease_expires_at=StoreTime(3600))
    connections[alias].close()
