"""Lease and commit against what a user would pick instead."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import cycle, islice

from benchmarks import databases, lineup, stores
from benchmarks.contestants import OURS, Memory
from benchmarks.measure import Contestant, Race
from benchmarks.order import order
from benchmarks.peers.base import Peer
from benchmarks.peers.langgraph import LangGraph
from benchmarks.peers.orm import RECIPE, AdvisoryLock, Recipe, WaryRecipe
from benchmarks.peers.redis import PythonRedisLock, RedisLock
from benchmarks.report import Bar, Cell, Section, Table
from benchmarks.run import Run

PEERS: dict[str, list[type[Peer]]] = {
    "sqlite": [Recipe, WaryRecipe],
    "postgresql": [Recipe, WaryRecipe, AdvisoryLock, LangGraph],
    "mariadb": [Recipe, WaryRecipe],
    stores.REDIS: [RedisLock, PythonRedisLock],
}
MACHINES = 500
LEAST = {"postgresql": (RECIPE, 3.0), "sqlite": (RECIPE, 5.0), stores.REDIS: (RedisLock.name, 1.0)}
"""Times as long as this package that a peer is to take."""
STEP = "cycle"


def measured(run: Run) -> Section:
    section = Section(
        "Instead of this package",
        "A cycle takes a lock, reads the state, changes it, writes it and releases. The ratio says how many times"
        " as long as machine_memory on that store it takes.",
    )
    for name in stores.available():
        with stores.scratch(name), ExitStack() as ended:
            peers = list(_peers(run, name, ended))
            stores.fill(name, MACHINES)
            ours = [Memory(stores.memory(name), order()), *lineup.prepared(name, order())]
            contestants: list[Memory | Peer] = [*ours, *peers]
            race = run.race(
                f"peers, {stores.NAMES[name]}",
                [Contestant(name=it.name, steps={STEP: it.cycle}, ids=cycle(_ids())) for it in contestants],
                share=1 + len(peers) / 4,
                turn=10,
            )
        section.tables.append(_table(stores.NAMES[name], ours, peers, race))
        if name in LEAST:
            rival, least = LEAST[name]
            what = f"{stores.NAMES[name]}: {rival}, against lease + commit"
            section.bars.append(Bar(what=what, measured=race.ratio(rival, STEP, OURS), least=least))
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


def _table(title: str, ours: Sequence[Memory], peers: Sequence[Peer], race: Race) -> Table:
    guards = dict.fromkeys((it.name for it in ours), "yes") | {peer.name: peer.guard for peer in peers}
    rows: list[list[Cell]] = []
    for name, guard in guards.items():
        p99 = race.percentile(name, STEP, 0.99)
        rows.append([name, race.median(name, STEP), p99, race.ratio(name, STEP, OURS), guard])
    return Table(title, ["", "p50, µs", "p99, µs", "ratio", "refuses a stale write"], rows)
