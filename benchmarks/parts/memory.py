"""Resident memory of a worker that goes on and on."""

from benchmarks import stores
from benchmarks.report import Bar, Section, Table
from benchmarks.resident import STATM, resident
from benchmarks.run import Run

STORES = ("sqlite", stores.REDIS)
LARGE, USUAL, QUICK = 100_000, 20_000, 1_000
WARM_UP = 2_000
SAMPLES = 10
MOST = 1.02
"""Times the memory after the warm-up that a worker may need at the end; else it is not flat."""
MIB = 2**20


def measured(run: Run) -> Section:
    section = Section(
        "Memory of a worker",
        "A fresh process for each store, with a new machine for each cycle; counted from the end of its warm-up.",
    )
    if not STATM.exists():
        run.missing["resident memory"] = f"this system has no {STATM}"
        return section
    cycles = LARGE if run.large else QUICK if run.quick else USUAL
    names = [name for name in STORES if name in stores.available()]
    found = []
    for name in names:
        run.says(f"{cycles:,} cycles of one worker, {stores.NAMES[name]}")
        with stores.scratch(name):
            sizes = resident(name, warm_up=WARM_UP, cycles=cycles, samples=SAMPLES)
        found.append(sizes)
        what = f"{stores.NAMES[name]}: resident memory after {cycles:,} cycles, against its start"
        section.bars.append(Bar(what=what, measured=sizes[-1] / sizes[0], most=MOST))
    columns = ["cycles", *(f"{stores.NAMES[name]}, MiB" for name in names)]
    rows = [[cycles * index // SAMPLES, *(sizes[index] / MIB for sizes in found)] for index in range(SAMPLES + 1)]
    section.tables.append(Table("Resident memory", columns, rows))
    return section
