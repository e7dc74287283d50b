"""Lease and commit against what a user would pick instead."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import cycle, islice

from benchmarks import databases
from benchmarks.contestants import OURS, Memory
from benchmarks.measure import Contestant, Race
from benchmarks.order import order
from benchmarks.peers.base import Peer
from benchmarks.peers.langgraph import LangGraph
from benchmarks.peers.orm import RECIPE, AdvisoryLock, Recipe, WaryRecipe
from benchmarks.peers.redis import PythonRedisLock, RedisLock
from benchmarks.report import Bar, Cell, Section, Table
from benchmarks.run import Run
from machine_memory import DatabaseMachineMemory

PEERS: dict[str, list[type[Peer]]] = {
    "sqlite": [Recipe, WaryRecipe],
    "postgresql": [Recipe, WaryRecipe, AdvisoryLock, RedisLock, PythonRedisLock, LangGraph],
    "mariadb": [Recipe, WaryRecipe],
}
MACHINES = 500
LEAST = {"postgresql": 3.0, "sqlite": 5.0}
"""Times as long as this package that the recipe is to take."""
STEP = "cycle"


def measured(run: Run) -> Section:
    section = Section(
        "Instead of this package",
        "A cycle takes a lock, reads the state, changes it, writes it and releases. The ratio says how many times"
        " as long as machine_memory on that database it takes. Redis and the databases differ in"
        " durability: see above.",
    )
    for name in databases.available():
        with databases.scratch(name), ExitStack() as ended:
            peers = list(_peers(run, name, ended))
            databases.fill(name, MACHINES)
            contestants: list[Memory | Peer] = [Memory(DatabaseMachineMemory(using=name), order()), *peers]
            race = run.race(
                f"peers, {databases.NAMES[name]}",
                [Contestant(name=it.name, steps={STEP: it.cycle}, ids=cycle(_ids())) for it in contestants],
                share=1 + len(peers) / 4,
                turn=10,
            )
        section.tables.append(_table(databases.NAMES[name], peers, race))
        if name in LEAST:
            ratio = race.ratio(RECIPE, STEP, OURS)
            what = f"{databases.NAMES[name]}: {RECIPE}, against lease + commit"
            section.bars.append(Bar(what=what, measured=ratio, least=LEAST[name]))
    return section


def _ids() -> list[str]:
    return list(islice(databases.ids(MACHINES), MACHINES // 2))


def _peers(run: Run, name: str, ended: ExitStack) -> Iterator[Peer]:
    for build in PEERS[name]:
        try:
            peer = build(name, order(), _ids())
        except (ImportError, ConnectionError) as reason:
            run.missing[build.name] = str(reason)
        else:
            ended.callback(peer.close)
            yield peer


def _table(title: str, peers: Sequence[Peer], race: Race) -> Table:
    rows: list[list[Cell]] = [[OURS, race.median(OURS, STEP), race.percentile(OURS, STEP, 0.99), 1.0, "yes"]]
    for peer in peers:
        p99 = race.percentile(peer.name, STEP, 0.99)
        ratio = race.ratio(peer.name, STEP, OURS)
        rows.append([peer.name, race.median(peer.name, STEP), p99, ratio, peer.guard])
    return Table(title, ["", "p50, µs", "p99, µs", "ratio", "refuses a stale write"], rows)
