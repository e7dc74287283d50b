"""Lease and commit by the size of the state."""

from itertools import cycle

from benchmarks import databases, lineup, stores
from benchmarks.contestants import OURS, Verbs
from benchmarks.measure import Contestant
from benchmarks.order import order
from benchmarks.raw import RAW
from benchmarks.report import Cell, Section, Table
from benchmarks.run import Run

SIZES = {"1 kB": 1_000, "100 kB": 100_000, "1 MB": 1_000_000}
MACHINES = 10
STEP = "cycle"


def measured(run: Run) -> Section:
    section = Section("Size of the state", "Ratios are against the raw driver.")
    for name in stores.available():
        rows = []
        for title, size in SIZES.items():
            state = order(size)
            with stores.scratch(name), lineup.on_store(name, state, forms=False) as those:
                _write(those[0])
                rows.append(_row(run, stores.NAMES[name], title, those))
        section.tables.append(_table(stores.NAMES[name], rows))
    rows = [_row(run, "in process", title, lineup.in_process(MACHINES, order(size))) for title, size in SIZES.items()]
    section.tables.append(_table("SimpleMachineMemory", rows))
    return section


def _ids() -> list[str]:
    return [databases.machine_id(number) for number in range(MACHINES)]


def _write(ours: Verbs) -> None:
    for id in _ids():
        ours.write(id)


def _row(run: Run, where: str, title: str, those: list[Verbs]) -> list[Cell]:
    contestants = [
        Contestant(name=it.name, steps={STEP: it.cycle}, ids=cycle(_ids())) for it in those if it.name in {OURS, RAW}
    ]
    race = run.race(f"{title} of state, {where}", contestants, share=0.5, turn=2)
    return [title, race.median(OURS, STEP), race.ratio(OURS, STEP, RAW), race.median(RAW, STEP)]


def _table(title: str, rows: list[list[Cell]]) -> Table:
    return Table(title, ["state", f"{OURS}, µs", "ratio", f"{RAW}, µs"], rows)
