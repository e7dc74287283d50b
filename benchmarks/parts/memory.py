"""Resident memory of a worker that goes on and on."""

from benchmarks import databases
from benchmarks.report import Bar, Section, Table
from benchmarks.resident import STATM, resident
from benchmarks.run import Run

ALIAS = "sqlite"
LARGE, USUAL, QUICK = 100_000, 20_000, 1_000
WARM_UP = 2_000
SAMPLES = 10
MOST = 1.02
"""Times the memory after the warm-up that a worker may need at the end; else it is not flat."""
MIB = 2**20


def measured(run: Run) -> Section:
    section = Section(
        "Memory of a worker",
        "A fresh process on SQLite, with a new machine for each cycle; counted from the end of its warm-up.",
    )
    if not STATM.exists():
        run.missing["resident memory"] = f"this system has no {STATM}"
        return section
    cycles = LARGE if run.large else QUICK if run.quick else USUAL
    run.says(f"{cycles:,} cycles of one worker")
    with databases.scratch(ALIAS):
        sizes = resident(ALIAS, warm_up=WARM_UP, cycles=cycles, samples=SAMPLES)
    rows = [[cycles * index // SAMPLES, size / MIB] for index, size in enumerate(sizes)]
    section.tables.append(Table("Resident memory", ["cycles", "MiB"], rows))
    what = f"resident memory after {cycles:,} cycles, against its start"
    section.bars.append(Bar(what=what, measured=sizes[-1] / sizes[0], most=MOST))
    return section
