"""Workers in processes of their own: what they get done together, what memory they need, and what purging takes."""

import re
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from itertools import chain, product
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from threading import Barrier

import django
from django.db import connections

from benchmarks import stores
from benchmarks.measure import Run, p99
from benchmarks.order import advance, order
from benchmarks.report import Section
from machine_memory import DatabaseMachineMemory

PROCESSES = (1, 2, 4, 8)
ROUNDS = 3
SHARE = 0.2
"""Of the usual time that a round of one task takes."""
PATIENCE = 30
"""Seconds to wait for the others, and for a lease."""
IDS = [stores.machine_id(number) for number in range(1, PROCESSES[-1] + 1)]
SCENARIOS = {"a machine each": IDS, "all on one machine": IDS[:1]}
MILLISECONDS, KIB = 1_000, 2**10
SPAWN = get_context("spawn")  # A fork would share the connections.
STATUS = Path("/proc/self/status")

CYCLES = {"quick": 1_000, "usual": 20_000, "large": 100_000}
WARM_UP = 2_000
SAMPLES = 10
MOST_GROWTH = 1.02
"""Times the memory after the warm-up that a worker may need at the end; else it is not flat."""
EXPIRED = {"quick": 2_000, "usual": 50_000, "large": 1_000_000}
MOST_MEMORY = 100
"""MiB that the process which purges may need."""


def throughput(run: Run) -> Section:
    section = Section(
        "Throughput",
        "Processes that start at one moment; the stores take turns. On one machine, a process that is denied tries"
        " again after a random pause, up to a quarter of a second. Ratios are against one process. Lost updates: cycles"
        " that were accepted and have left no trace in the state.",
    )
    seconds = run.seconds * SHARE
    taken: dict[tuple[str, str, int], list[list[float]]] = defaultdict(list)
    with (
        stores.scratch(dict.fromkeys(stores.SERVED, len(IDS))),
        _pool(PROCESSES[-1]) as pool,
        SPAWN.Manager() as own,
    ):
        start_lines = {count: own.Barrier(count) for count in PROCESSES}
        run.says("throughput: the processes start")  # What comes next is not to compete with that.
        _together(pool, start_lines[PROCESSES[-1]], stores.SERVED[0], IDS, 0)
        for number in range(ROUNDS):
            run.says(f"throughput, round {number + 1} of {ROUNDS}")
            for scenario, count, store in product(SCENARIOS, PROCESSES, stores.SERVED):
                times = _together(pool, start_lines[count], store, SCENARIOS[scenario], seconds)
                taken[store, scenario, count].append(times)
        for store in stores.SERVED:
            rows, accepted = [], 0
            for scenario, count in product(SCENARIOS, PROCESSES):
                rounds, alone = taken[store, scenario, count], taken[store, scenario, 1]
                times = [time * MILLISECONDS for time in chain(*rounds)]
                ratio = median(len(these) / max(1, len(those)) for these, those in zip(rounds, alone, strict=True))
                pace = median(map(len, rounds)) / seconds
                rows.append([scenario, count, pace, ratio, median(times), p99(times)])
                accepted += len(times)
            states = filter(None, map(stores.memory(store).read, IDS))
            title = f"{stores.NAMES[store]}: {accepted - sum(state['revision'] - 1 for state in states)} lost updates"
            section.table(title, ["", "processes", "cycles per second", "ratio", "p50, ms", "p99, ms"], rows)
    return section


def _pool(count: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(count, mp_context=SPAWN, initializer=django.setup)


def _together(pool: Executor, start_line: Barrier, store: str, ids: Sequence[str], seconds: float) -> list[float]:
    """Return the seconds of each cycle of all the processes that the start line is for."""
    numbers = range(start_line.parties)
    tasks = [pool.submit(_cycles, store, ids[number % len(ids)], start_line, seconds) for number in numbers]
    return list(chain.from_iterable(task.result() for task in tasks))


def _cycles(store: str, id: str, start_line: Barrier, seconds: float) -> list[float]:
    memory = stores.memory(store)
    memory.read(id)  # Connects.
    times = []
    start_line.wait(PATIENCE)
    now = time.monotonic()
    deadline = now + seconds
    while now < deadline:
        with memory.lease(id, wait=PATIENCE) as lease:
            state = lease.data
            advance(state)
            lease.commit(state)
        before, now = now, time.monotonic()
        times.append(now - before)
    return times


def memory(run: Run) -> Section:
    section = Section(
        "Memory of a worker",
        "A fresh process for each store, with a new machine for each cycle; counted from the end of its warm-up.",
    )
    if not STATUS.exists():
        run.missing["resident memory"] = f"this system has no {STATUS}"
        return section
    cycles = CYCLES[run.size]
    sizes = {}
    for store in [store for store in ("sqlite", stores.REDIS) if store in stores.SERVED]:
        run.says(f"{cycles:,} cycles of one worker, {stores.NAMES[store]}")
        with stores.scratch({store: 0}), _pool(1) as pool:
            sizes[store] = pool.submit(_resident, store, cycles // SAMPLES).result()
        what = f"{stores.NAMES[store]}: resident memory after {cycles:,} cycles, against its start"
        section.bar(what, sizes[store][-1] / sizes[store][0], most=MOST_GROWTH)
    columns = ["cycles", *(f"{stores.NAMES[store]}, MiB" for store in sizes)]
    rows = [[cycles * index // SAMPLES, *row] for index, row in enumerate(zip(*sizes.values(), strict=True))]
    section.table("Resident memory", columns, rows)
    return section


def _resident(store: str, step: int) -> list[float]:
    """Return the resident MiB after the warm-up, and after each of the samples."""
    memory, state, sizes = stores.memory(store), order(), []
    for number in range(WARM_UP + step * SAMPLES + 1):
        if number >= WARM_UP and (number - WARM_UP) % step == 0:
            sizes.append(_mebibytes("VmRSS"))
        with memory.lease(stores.machine_id(number)) as lease:
            lease.commit(lease.data or state)
    return sizes


def _mebibytes(name: str) -> float:
    """Return the memory of this process, as proc(5) has it."""
    # Not getrusage: it counts what this process was before it became one of its own, a copy of the one that started it.
    (size,) = re.findall(rf"{name}:\s+(\d+) kB", STATUS.read_text())
    return int(size) / KIB


def purge(run: Run) -> Section:
    count = EXPIRED[run.size]
    section = Section(
        "Purge",
        f"`purge_expired_locks` ends {count:,} expired leases, a thousand at a time, and passes over rows in use; one"
        " bare UPDATE of all of them keeps every row until it is done. Memory is the most that a fresh process needed.",
    )
    rows = []
    for store in stores.DATABASES:
        run.says(f"{count:,} expired locks, {stores.NAMES[store]}")
        with stores.scratch({store: count}), _pool(1) as pool:
            _expire_all(store)
            bare = _seconds(partial(stores.end_expired, store))
            _expire_all(store)
            connections[store].close()
            seconds, size = pool.submit(_purge, store).result()
        rows.append([stores.NAMES[store], count / seconds, seconds, bare, seconds / bare, size])
        if size is not None:
            what = f"{stores.NAMES[store]}: memory while {count:,} expired locks are purged"
            section.bar(what, size, "MiB", most=MOST_MEMORY)
    columns = ["", "leases a second", "seconds", "bare statement, seconds", "ratio", "memory, MiB"]
    section.table("Purge", columns, rows)
    return section


def _expire_all(store: str) -> None:
    stores.lease(store, -stores.HOUR)
    if store == "postgresql":
        with connections[store].cursor() as cursor:
            cursor.execute(f"VACUUM ANALYZE {stores.TABLE}")


def _purge(store: str) -> tuple[float, float | None]:
    """Return the seconds that it took, and the most resident MiB, where they are known."""
    seconds = _seconds(DatabaseMachineMemory(using=store).purge_expired_locks)
    return seconds, _mebibytes("VmHWM") if STATUS.exists() else None


def _seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started
