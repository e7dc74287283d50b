"""Lease and commit by the number of machines, and among many live leases; and what many cycles leave behind."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice, product
from pathlib import Path
from statistics import median
from typing import Any

from django.db import connections

from benchmarks import stores
from benchmarks.contestants import ORM_FORM, OURS, RAW, cycle, on_store
from benchmarks.measure import CYCLE, Contestant, Run, Steps
from benchmarks.report import Section
from benchmarks.settings import SIZES
from machine_memory import DatabaseMachineMemory

SMALL, JUDGED = 1_000, 1_000_000
MOST = 1.2
MIB, GIB = 2**20, 2**30
BYTES = 2_500
"""Of disk that a machine may need while it is inserted."""
CYCLES = {"quick": 500, "usual": 10_000, "large": 100_000}
"""After which the wear is looked at."""
WORN = 1_000
BATCHES, BATCH = 11, 50
"""So many times, so many cycles are counted in the log: few enough for SQLite not to begin its log anew."""
FREE, LEASES = 1_000, 5_000
ALONE, CROWD = "alone", "crowd"
ROOM = {
    "sqlite": "SELECT page_count * page_size, NULL FROM pragma_page_count, pragma_page_size",
    "postgresql": f"SELECT PG_TABLE_SIZE('{stores.TABLE}'), PG_INDEXES_SIZE('{stores.TABLE}')",
    "mariadb": "SELECT data_length, index_length FROM information_schema.tables"  # noqa: S608
    f" WHERE table_schema = DATABASE() AND table_name = '{stores.TABLE}'",
}
"""Bytes of the table and of its indexes; of SQLite those of both together."""
HOT = f"SELECT n_tup_hot_upd::float / GREATEST(n_tup_upd, 1) FROM pg_stat_user_tables WHERE relname = '{stores.TABLE}'"  # noqa: S608
POSITION = {
    "postgresql": "SELECT PG_CURRENT_WAL_INSERT_LSN() - '0/0'::pg_lsn",
    "mariadb": "SELECT variable_value FROM information_schema.global_status WHERE variable_name = 'INNODB_LSN_CURRENT'",
}


def growth(run: Run) -> Section:
    sizes = _sizes(run)
    section = Section(
        "Growth",
        f"The sizes took turns, each in a database of its own, at machines all over the table. One machine in"
        f" {stores.HELD_EVERY} has a lease of somebody else, half of them live. Ratios are against {SMALL:,}"
        " machines.",
    )
    databases = {f"{store}-{size}": size for store in stores.DATABASES for size in sizes}
    run.says(f"{sum(databases.values()):,} machines are inserted")
    with stores.scratch(databases, held=stores.SPREAD):
        for store in stores.DATABASES:
            name = stores.NAMES[store]
            race = run.race(f"growth, {name}", [_contestant(str(n), f"{store}-{n}", n) for n in sizes], share=3)
            rows = [[n, race.median(str(n)), race.ratio(str(n), str(SMALL)), race.p99(str(n))] for n in sizes]
            section.table(name, ["machines", "p50, µs", "ratio", "p99, µs"], rows)
            if JUDGED in sizes:
                what = f"{name}: lease + commit among {JUDGED:,} machines, against {SMALL:,}"
                section.bar(what, race.ratio(str(JUDGED), str(SMALL)), most=MOST)
    _wear(run, section)
    return section


def _sizes(run: Run) -> Sequence[int]:
    free, needed = shutil.disk_usage(tempfile.gettempdir()).free, SIZES[-1] * len(stores.DATABASES) * BYTES
    if run.size == "large" and free < needed:
        run.missing[f"{SIZES[-1]:,} machines"] = f"there are {free / GIB:,.0f} of {needed / GIB:,.0f} GiB of disk"
        return SIZES[:3]
    return SIZES[: {"quick": 2, "usual": 3, "large": 4}[run.size]]


def _contestant(name: str, database: str, count: int, **options: Any) -> Contestant:
    return Contestant(name, {CYCLE: cycle(DatabaseMachineMemory(using=database, **options))}, stores.ids(count))


def _wear(run: Run, section: Section) -> None:
    cycles = CYCLES[run.size]
    run.says(f"{cycles:,} cycles of wear")
    with ThreadPoolExecutor() as threads:  # Nothing is timed, so the servers may compete.
        rows = list(threads.map(partial(_worn, cycles), stores.DATABASES))
    columns = [
        *("", "table, MiB", "table, ratio", "indexes, MiB", "indexes, ratio", "updates that touched no index"),
        *("log, bytes", "log of the raw driver, bytes"),
    ]
    title = f"After {cycles:,} cycles on {WORN:,} machines, nothing vacuumed or optimised; and the log for each cycle"
    section.table(title, columns, rows)


def _worn(cycles: int, store: str) -> list[object]:
    with on_store(store, WORN, held=stores.SPREAD) as contestants:
        before = room(store)
        for id in islice(stores.ids(WORN), cycles):
            contestants[OURS][CYCLE](id)
        rooms = list(_grown(before, room(store)))
        return [stores.NAMES[store], *rooms, _hot_share(store), *_logged(store, contestants)]


def _grown(before: Sequence[int | None], after: Sequence[int | None]) -> Iterator[float | None]:
    for was, now in zip(before, after, strict=True):
        yield now / MIB if now else None
        yield now / was if now and was else None


def room(store: str) -> Sequence[int | None]:
    if store == "mariadb":
        _row(store, f"ANALYZE TABLE {stores.TABLE}")
    return tuple(_row(store, ROOM[store]))


def _hot_share(store: str) -> float | None:
    """Return the share of updates on PostgreSQL that touched no index, and left nothing for VACUUM to collect."""
    if store != "postgresql":
        return None
    _row(store, "SELECT PG_STAT_FORCE_NEXT_FLUSH()")
    return float(_row(store, HOT)[0])


def _logged(store: str, contestants: Mapping[str, Steps]) -> list[float]:
    """Return the bytes in the log for each cycle: of this package, and of the raw driver."""
    ids = stores.ids(WORN)
    logged: dict[str, list[int]] = {OURS: [], RAW: []}
    for _ in range(BATCHES):
        for name, counts in logged.items():
            if store == "sqlite":
                _row(store, "PRAGMA wal_checkpoint(TRUNCATE)")
            before = position(store)
            for id in islice(ids, BATCH):
                contestants[name][CYCLE](id)
            counts.append(position(store) - before)
    return [median(counts) / BATCH for counts in logged.values()]


def position(store: str) -> int:
    """Return how far a database has written ahead; a server, for all its databases."""
    if store == "sqlite":
        return Path(f"{connections[store].settings_dict['NAME']}-wal").stat().st_size
    return int(_row(store, POSITION[store])[0])


def _row(store: str, statement: str) -> Any:
    with connections[store].cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()


def crowd(run: Run) -> Section:
    section = Section(
        "Crowd",
        f"A cycle at one of {FREE:,} free machines while nobody has a lease, and while {LEASES:,} others are leased, of"
        " which the statistics of the database know nothing yet. Ratios are against nobody.",
    )
    databases = [*stores.DATABASES, *(f"{store}-{CROWD}" for store in stores.DATABASES)]
    with stores.scratch(dict.fromkeys(databases, FREE + LEASES)):
        for store in stores.DATABASES:
            places = {ALONE: store, CROWD: f"{store}-{CROWD}"}
            stores.lease(places[CROWD], stores.HOUR, after=FREE)
            contestants = [
                _contestant(f"{form}, {place}", places[place], FREE, one_statement=form == OURS)
                for form, place in product((OURS, ORM_FORM), places)
            ]
            race = run.race(f"crowd, {stores.NAMES[store]}", contestants, share=2)
            rows = []
            for form in (OURS, ORM_FORM):
                alone, among = f"{form}, {ALONE}", f"{form}, {CROWD}"
                rows.append([form, race.median(alone), race.median(among), race.ratio(among, alone)])
                what = f"{stores.NAMES[store]}: {form}, a cycle among {LEASES:,} live leases, against none"
                section.bar(what, race.ratio(among, alone), most=MOST)
            section.table(stores.NAMES[store], ["", "alone, µs", "crowd, µs", "ratio"], rows)
    return section
