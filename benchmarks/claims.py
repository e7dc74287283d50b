"""Claiming what is due among many machines that are not, and by several processes at once."""

import time
from collections.abc import Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import nullcontext
from datetime import timedelta
from itertools import chain, repeat
from statistics import median
from threading import Barrier
from typing import Any

import django

from benchmarks import mariadb, stores
from benchmarks.measure import Contestant, Run
from benchmarks.order import advance
from benchmarks.report import Section
from benchmarks.workers import PATIENCE, SPAWN
from machine_memory import BaseMachineMemory
from machine_memory.backends.database.clock import StoreTime
from machine_memory.models import MachineRecord
from tests.clusters import galera

MACHINES = {"quick": 50_000, "usual": 1_000_000, "large": 1_000_000}
DUE_EVERY = "00"
"""Of the machines, those whose ids end so are due: one in a hundred."""
LIMIT = 100
CLAIM, POLL, BACK = "claim", "an empty poll", "giving it back"
LAPS = 10
MOST_CLAIM, MOST_POLL = 10, 2
MEMORY = "3G"
MILLISECOND = 1_000
CLAIMERS = (1, 4, 8)
DRAINED = {"quick": 2_000, "usual": 10_000, "large": 10_000}


def claims(run: Run) -> Section:
    count = MACHINES[run.size]
    section = Section("Claims", f"`memory.claim({LIMIT})` among {count:,} machines, of which one in a hundred is due.")
    rows: list[list[object]] = []
    for store in stores.DATABASES:
        run.says(f"{count:,} machines are inserted, {stores.NAMES[store]}")
        is_own = store == "mariadb" and not galera.missing
        name = stores.NAMES[store]
        with mariadb.in_memory(store, MEMORY) if is_own else nullcontext():
            claim, poll = _claims(run, store, count)
        rows.append([name, claim, poll])
        section.bar(f"{name}: claim({LIMIT}) among {count:,} machines", claim, "ms", most=MOST_CLAIM)
        section.bar(f"{name}: an empty poll among {count:,} machines", poll, "ms", most=MOST_POLL)
        if is_own:
            rows.append([f"{name}, from disk", *_claims(run, store, count)])
    section.table("Claims", ["", f"claim({LIMIT}), ms", "empty poll, ms"], rows)
    if not galera.missing:
        section.note += (
            f" MariaDB has {MEMORY} of memory for them, as the other databases have the system's; from disk: the"
            " server that is there, which has what is said above, and reads a page for each machine."
        )
    _drain_together(run, section)
    return section


def _claims(run: Run, store: str, count: int) -> tuple[float, float]:
    """Return the milliseconds that a claim and an empty poll take among so many machines."""
    with stores.scratch({store: count}):
        memory = stores.memory(store)
        empty = run.race(f"an empty poll, {stores.NAMES[store]}", [_contestant(POLL, memory)], share=0.5, turn=LAPS)
        MachineRecord.objects.using(store).filter(pk__endswith=DUE_EVERY).update(wake_at=StoreTime(-60))
        # Each claim takes the next, and none comes again within the time of a lease.
        contestant = _contestant(CLAIM, memory)
        turn = contestant.turn(min(LAPS * 5, count // 100 // LIMIT))
        return median(turn[CLAIM]) / MILLISECOND, empty.median(POLL, CLAIM) / MILLISECOND


def _drain_together(run: Run, section: Section) -> None:
    """Let processes claim, advance and commit all machines there are, until nothing is due."""
    count = DRAINED[run.size]
    ids, rows = [stores.machine_id(number) for number in range(1, count + 1)], []
    with (
        stores.scratch(dict.fromkeys(stores.SERVED, count)),
        ProcessPoolExecutor(CLAIMERS[-1], mp_context=SPAWN, initializer=django.setup) as pool,
        SPAWN.Manager() as own,
    ):
        start_lines = {claimers: own.Barrier(claimers) for claimers in CLAIMERS}
        for store in stores.SERVED:
            run.says(f"{count:,} machines are drained, {stores.NAMES[store]}")
            _together(pool, start_lines[CLAIMERS[-1]], store)  # The processes start, and connect.
            paces, wrong = [], 0
            for claimers in CLAIMERS:
                _make_due(store, ids)
                seconds, drained = _together(pool, start_lines[claimers], store)
                paces.append(count / seconds)
                wrong += len(drained) != count or len(set(drained)) != count
            rows += [
                [stores.NAMES[store], claimers, pace, pace / paces[0]]
                for claimers, pace in zip(CLAIMERS, paces, strict=True)
            ]
            section.bar(f"{stores.NAMES[store]}: drained with a machine twice, or left", wrong, most=0)
    title = f"{count:,} machines, claimed by {LIMIT}, advanced and committed"
    section.table(title, ["", "claimers", "machines a second", "ratio"], rows)


def _make_due(store: str, ids: list[str]) -> None:
    with stores.memory(store).leases(ids, ttl=timedelta(hours=1)) as batch:
        batch.commit({lease.id: lease.data for lease in batch}, wake_at=timedelta(0))


def _together(pool: Executor, start_line: Barrier, store: str) -> tuple[float, list[str]]:
    """Return the seconds until the last has nothing more to do, and what they have done."""
    tasks = [pool.submit(_drain, store, start_line) for _ in range(start_line.parties)]
    spent, drained = zip(*(task.result() for task in tasks), strict=True)
    return max(spent), list(chain.from_iterable(drained))


def _drain(store: str, start_line: Barrier) -> tuple[float, list[str]]:
    memory, drained = stores.memory(store), list[str]()
    memory.read(stores.machine_id(1))  # Connects.
    start_line.wait(PATIENCE)
    started = time.monotonic()
    while True:
        states = {}
        with memory.claim(LIMIT) as batch:
            if not len(batch):
                return time.monotonic() - started, drained
            for lease in batch:
                state = lease.data
                advance(state)
                states[lease.id] = state
            drained += batch.commit(states)


def _contestant(name: str, memory: BaseMachineMemory) -> Contestant:
    return Contestant(name, _steps(memory), repeat(""))


def _steps(memory: BaseMachineMemory) -> Mapping[str, Any]:
    blocks: list[Any] = []

    def claim(id: str) -> None:
        blocks.append(memory.claim(LIMIT))
        blocks[-1].__enter__()

    return {CLAIM: claim, BACK: lambda id: blocks.pop().__exit__()}
