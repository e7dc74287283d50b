"""How much room many machines take, and how much is written for a cycle."""

from itertools import islice
from statistics import median

from django.db import connections

from benchmarks import stores
from benchmarks.contestants import cycle
from benchmarks.growth import MIB, position, room
from benchmarks.measure import CYCLE, Contestant, Run
from benchmarks.order import USUAL
from benchmarks.report import Section

MACHINES = {"quick": 2_000, "usual": 100_000, "large": 1_000_000}
MILLION = 1_000_000
BATCHES, BATCH = 11, 50


def capacity(run: Run) -> Section:
    count = MACHINES[run.size]
    section = Section(
        "Capacity",
        f"{count:,} machines of {USUAL / 1_000:.1f} kB, nine of a thousand somebody's children; what a million take is"
        f" scaled from that. The log is that of cycles far from each other: the first of a machine since a checkpoint,"
        " and the next.",
    )
    rows = []
    run.says(f"{count * len(stores.DATABASES):,} machines are inserted")
    with stores.scratch(dict.fromkeys(stores.DATABASES, count)):
        for store in stores.DATABASES:
            table, indexes = room(store)
            million = [None if size is None else size / count * MILLION / MIB for size in (table, indexes)]
            logged = [_logged(store, count), _logged(store, count)]
            race = run.race(
                f"cycles, {stores.NAMES[store]}",
                [Contestant(store, {CYCLE: cycle(stores.memory(store))}, stores.ids(count))],
                share=0.5,
            )
            rows.append([stores.NAMES[store], *million, *logged, 1_000_000 / race.median(store)])
    columns = [
        "",
        "table of a million, MiB",
        "its indexes, MiB",
        "log of a first cycle, bytes",
        "of the next",
        "cycles a second",
    ]
    section.table("Databases", columns, rows)
    return section


def _logged(store: str, count: int) -> float:
    """Return the bytes of the log for a cycle: those of a server are for all that it does meanwhile."""
    take, ids, logged = cycle(stores.memory(store)), stores.ids(count), []
    for _ in range(BATCHES):
        if store == "sqlite":
            with connections[store].cursor() as cursor:
                cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        before = position(store)
        for id in islice(ids, BATCH):
            take(id)
        logged.append((position(store) - before) / BATCH)
    return median(logged)
