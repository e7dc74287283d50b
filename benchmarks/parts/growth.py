"""Lease and commit by the number of machines; and what many cycles leave behind."""

import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor

from benchmarks import databases
from benchmarks.contestants import OURS, Memory
from benchmarks.measure import Contestant, Race
from benchmarks.order import order
from benchmarks.raw import RAW
from benchmarks.report import Bar, Cell, Section, Table
from benchmarks.run import Run
from benchmarks.settings import SIZES
from benchmarks.wear import MACHINES, Wear, wear
from machine_memory import DatabaseMachineMemory

SMALL, JUDGED = 1_000, 1_000_000
MOST = 1.2
STEP = "cycle"
LARGE, USUAL, QUICK = 100_000, 10_000, 500
"""Cycles after which the wear is looked at."""
MIB, GIB = 2**20, 2**30
BYTES = 2_500
"""Of disk that a machine may need while it is inserted."""


def measured(run: Run) -> Section:
    names = databases.available()
    sizes = _sizes(run, len(names))
    aliases = {f"{name}-{size}": size for name in names for size in sizes}
    section = Section(
        "Growth",
        f"The sizes took turns, each in a database of its own, at machines all over the table. One machine in"
        f" {databases.HELD_EVERY} has a lease of somebody else, half of them live. Ratios are against {SMALL:,}"
        " machines.",
    )
    with databases.scratch(*aliases):
        run.says(f"{sum(sizes):,} machines are inserted")
        databases.fill_all(aliases, held=databases.SPREAD)
        for name in names:
            race = run.race(f"growth, {databases.NAMES[name]}", [_contestant(name, size) for size in sizes], share=3)
            section.tables.append(_table(name, race, sizes))
            if JUDGED in sizes:
                ratio = race.ratio(f"{JUDGED}", STEP, f"{SMALL}")
                what = f"{databases.NAMES[name]}: lease + commit among {JUDGED:,} machines, against {SMALL:,}"
                section.bars.append(Bar(what=what, measured=ratio, most=MOST))
    section.tables.append(_wear(run, names))
    return section


def _sizes(run: Run, count: int) -> tuple[int, ...]:
    if not run.large:
        return SIZES[:2] if run.quick else SIZES[:3]
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < (needed := SIZES[-1] * count * BYTES):
        run.missing[f"{SIZES[-1]:,} machines"] = f"there are {free / GIB:,.0f} of {needed / GIB:,.0f} GiB of disk"
        return SIZES[:3]
    return SIZES


def _contestant(name: str, size: int) -> Contestant:
    memory = Memory(DatabaseMachineMemory(using=f"{name}-{size}"), order())
    return Contestant(name=f"{size}", steps={STEP: memory.cycle}, ids=databases.ids(size))


def _table(name: str, race: Race, sizes: tuple[int, ...]) -> Table:
    rows = []
    for size in sizes:
        p50, p99 = race.median(f"{size}", STEP), race.percentile(f"{size}", STEP, 0.99)
        rows.append([size, p50, race.ratio(f"{size}", STEP, f"{SMALL}"), p99])
    return Table(databases.NAMES[name], ["machines", "p50, µs", "ratio", "p99, µs"], rows)


def _wear(run: Run, names: list[str]) -> Table:
    cycles = LARGE if run.large else QUICK if run.quick else USUAL
    run.says(f"{cycles:,} cycles of wear")
    with databases.scratch(*names), ThreadPoolExecutor() as threads:  # Nothing is timed, so the servers may compete.
        found = dict(zip(names, threads.map(lambda name: wear(name, cycles), names), strict=True))
    title = (
        f"After {cycles:,} cycles on {MACHINES:,} machines, nothing vacuumed or optimised; and the log for each cycle"
    )
    columns = [
        *("", "table, MiB", "table, ratio", "indexes, MiB", "indexes, ratio", "updates that touched no index"),
        *("log, bytes", "log of the raw driver, bytes"),
    ]
    return Table(title, columns, [[databases.NAMES[name], *_worn(wear)] for name, wear in found.items()])


def _worn(found: Wear) -> list[Cell]:
    (table, indexes), (table_after, indexes_after) = found.before, found.after
    return [
        table_after / MIB,
        table_after / table,
        indexes_after / MIB if indexes_after else None,
        indexes_after / indexes if indexes_after and indexes else None,
        found.hot_share,
        found.logged[OURS],
        found.logged[RAW],
    ]
