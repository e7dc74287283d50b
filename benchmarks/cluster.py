"""One server against several: what a cycle costs, what the nodes do for it, and what the loss of a primary costs.

The servers are this part's own, and are gone when it ends.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import cycle as endless
from itertools import islice
from typing import Any

from django.core.management import call_command
from django.db import connections
from redis import Redis

from benchmarks import stores
from benchmarks.contestants import cycle
from benchmarks.failovers import failovers
from benchmarks.mariadb import Alone
from benchmarks.measure import CYCLE, Contestant, Run
from benchmarks.order import order
from benchmarks.places import WORKERS, Place, Pool
from benchmarks.report import Section
from machine_memory import BaseMachineMemory, Metadata
from machine_memory.backends.redis import NAMESPACE
from tests.clusters import galera, replicas
from tests.clusters.galera import Node
from tests.clusters.processes import wait_until
from tests.clusters.redis_cluster import RedisNodes
from tests.clusters.replicas import Pair, Server
from tests.redis.server import RedisServer, programs

MACHINES, BATCH = 300, 100
COUNTED, BEFORE_THE_NEXT_NODE = 180, 30
"""Cycles whose work is counted at the servers; after so many the connection is a new one."""
MOST_DEARER = 1.15
"""Times that a cycle may take on a Redis Cluster, against one server."""
SAME = 1.02
"""Times the work of one server that the busiest node may have for a cycle; their own talk is not counted."""
CROWD = {"quick": 10_000, "usual": 100_000, "large": 1_000_000}
"""Machines among which the children of one are asked for."""
MOST_CHILDREN = 2
"""Milliseconds that this may take."""
APPENDING = {"appendonly": "yes", "auto_aof_rewrite_percentage": "0"}
MILLISECOND = 1_000


@dataclass(frozen=True, slots=True)
class Side:
    """A place, and what its servers have been told so far."""

    place: Place
    work: Callable[[], list[int]]
    """Returns, for each node, how many scripts, statements or commits it has had from its clients."""
    processes: Sequence[int] = ()
    """The servers that are kept apart from their client where the cycles of the two are held to a bar."""


def cluster(run: Run) -> Section:
    section = Section(
        "Clusters",
        "Every node and every worker shares the CPUs of this one machine: it can show what a cluster costs, and that"
        " the work of a cycle does not grow with the number of nodes, but never that throughput grows with them.",
    )
    parts = [_redis]
    if run.size != "quick":
        for part, missing in ((_mariadb, galera.missing), (_postgresql, replicas.missing)):
            if missing:
                run.missing[part.__name__.lstrip("_") + " with several nodes"] = missing
            else:
                parts.append(part)
    rows: dict[str, list[list[object]]] = {"cycles": [], "work": [], "throughput": []}
    with ExitStack() as stack:
        pool = None if run.size == "quick" else stack.enter_context(Pool())
        for part in parts:
            with part(run) as (unit, sides):
                _compare(run, section, unit, sides, rows=rows, pool=pool)
    section.table("A cycle, by turns", ["", "p50, µs", "p99, µs", "against one"], rows["cycles"])
    columns = ["", "counted", "all nodes", "the busiest", "that against one"]
    section.table("Work at the servers for each cycle", columns, rows["work"])
    if rows["throughput"]:
        columns = ["workers, each at a machine of its own", *map(str, WORKERS)]
        section.table("Cycles a second", columns, rows["throughput"])
    _children(run, section)
    if run.size != "quick":
        failovers(run, section)
    return section


def _compare(
    run: Run,
    section: Section,
    unit: str,
    sides: Sequence[Side],
    *,
    rows: dict[str, list[list[object]]],
    pool: "Pool | None",
) -> None:
    alone, shared = sides
    memories = {side.place.name: side.place.memory() for side in sides}
    for memory in memories.values():
        _fill(memory, range(MACHINES))
    contestants = [Contestant(name, {CYCLE: cycle(it)}, stores.ids(MACHINES)) for name, it in memories.items()]
    with _apart([process for side in sides for process in side.processes]):
        race = run.race(f"{shared.place.name} against {alone.place.name}", contestants, share=2, turn=5)
    for memory in memories.values():
        memory.store.start_afresh()
    done = {side.place.name: _counted(side, memories[side.place.name]) for side in sides}
    one = max(done[alone.place.name])
    for name, counts in done.items():
        rows["cycles"].append([name, race.median(name), race.p99(name), race.ratio(name, alone.place.name)])
        rows["work"].append([name, unit, sum(counts), max(counts), max(counts) / one])
    name = shared.place.name
    if shared.place.database is None:
        section.bar(f"{name}: a cycle, against one server", race.ratio(name, alone.place.name), most=MOST_DEARER)
    section.bar(f"{name}: {unit} for a cycle at the busiest node, against one", max(done[name]) / one, most=SAME)
    if pool:
        run.says(f"{name} and {alone.place.name} by {', '.join(map(str, WORKERS))} workers")
        rows["throughput"] += pool.paces([side.place for side in sides])
    for memory in memories.values():
        memory.store.start_afresh()


@contextmanager
def _apart(servers: Sequence[int]) -> Iterator[None]:
    """Keep servers off the CPU of their client, as where they are machines of their own.

    Else what is compared is how many of them the kernel puts beside it: one is likely to be, and of three two are not.
    """
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    own = set(sorted(cpus)[:1])
    if not servers or cpus == own:
        yield
        return
    try:
        for process in servers:
            os.sched_setaffinity(process, cpus - own)
        os.sched_setaffinity(0, own)
        yield
    finally:
        for process in (0, *servers):
            os.sched_setaffinity(process, cpus)


def _fill(memory: BaseMachineMemory, numbers: range) -> None:
    state = order()
    for first in numbers[::BATCH]:
        ids = map(stores.machine_id, range(first, min(first + BATCH, numbers.stop)))
        with memory.leases(ids) as batch:
            batch.commit({lease.id: state for lease in batch})


def _counted(side: Side, memory: BaseMachineMemory) -> list[float]:
    """Return what each node had to do for a cycle."""
    take, before = cycle(memory), side.work()
    for number, id in enumerate(islice(stores.ids(MACHINES), COUNTED)):
        if number % BEFORE_THE_NEXT_NODE == 0:
            memory.store.start_afresh()
        take(id)
    memory.store.start_afresh()
    return [(now - then) / COUNTED for now, then in zip(side.work(), before, strict=True)]


@contextmanager
def _redis(run: Run) -> Iterator[tuple[str, list[Side]]]:
    run.says("a Redis, and a cluster of three are started")
    with RedisServer(programs()[-1]) as server, RedisNodes() as nodes:
        nodes.wait()
        one, clients = Redis.from_url(server.url), [nodes.client_of(node) for node in nodes.primaries]
        shared = Place("Redis Cluster, three primaries", nodes.urls)
        yield (
            "scripts",
            [
                Side(Place("Redis, one server", [server.url]), lambda: [_scripts(one)], [server.pid]),
                Side(shared, lambda: list(map(_scripts, clients)), [node.pid for node in nodes.primaries]),
            ],
        )


def _spent(client: Any) -> int:
    """Return the microseconds that a server has spent on scripts."""
    stats = client.info("commandstats")
    return sum(int(stats.get(f"cmdstat_{command}", {}).get("usec", 0)) for command in ("eval", "evalsha"))


def _scripts(client: Any) -> int:
    stats = client.info("commandstats")
    return sum(int(stats.get(f"cmdstat_{command}", {}).get("calls", 0)) for command in ("eval", "evalsha"))


@contextmanager
def _mariadb(run: Run) -> Iterator[tuple[str, list[Side]]]:
    run.says("a MariaDB, and a cluster of Galera are started")
    with ExitStack() as stack:
        alone = Alone(galera.NODES, galera.ACCOUNT.folder("alone"))
        alone.start_alone()
        alone.execute("CREATE DATABASE machines CHARACTER SET utf8mb4")
        stack.callback(alone.kill)
        nodes = stack.enter_context(galera.running())
        one = Place("MariaDB, one server", database=nodes.settings("machines", nodes=[alone]))
        one.memory()
        call_command("migrate", database=one.name, verbosity=0)
        shared = Place("Galera, three nodes", database=nodes.settings("machines"))
        yield (
            "statements",
            [Side(one, lambda: [_statements(alone)]), Side(shared, lambda: list(map(_statements, nodes.nodes)))],
        )


def _statements(node: Node) -> int:
    kinds = ", ".join(f"'Com_{kind}'" for kind in ("select", "insert", "update", "delete", "insert_select", "commit"))
    return sum(int(count) for _, count in node.execute(f"SHOW GLOBAL STATUS WHERE variable_name IN ({kinds})"))


@contextmanager
def _postgresql(run: Run) -> Iterator[tuple[str, list[Side]]]:
    run.says("a PostgreSQL and its replica are started")
    pair = Pair(synchronous=True)
    try:
        settings = pair.settings()
        places = []
        for name, waits in {"replica not waited for": "local", "synchronous replica": "on"}.items():
            options = {**settings["OPTIONS"], "options": f"-c synchronous_commit={waits}"}
            places.append(Place(f"PostgreSQL, {name}", database={**settings, "OPTIONS": options}))
        places[0].memory()
        call_command("migrate", database=places[0].name, verbosity=0)
        connections[places[0].name].close()
        yield "commits", [Side(place, lambda: _commits(pair)) for place in places]
    finally:
        pair.close()


def _commits(pair: Pair) -> list[int]:
    return [_commits_of(server) for server in (pair.primary, pair.replica)]


def _commits_of(server: Server) -> int:
    backends = "SELECT numbackends FROM pg_stat_database WHERE datname = 'postgres'"
    wait_until(lambda: server.execute(backends) == [(1,)], "the end of other sessions, which then tell what they did")
    ((count,),) = server.execute("SELECT xact_commit FROM pg_stat_database WHERE datname = 'postgres'")
    return int(count)


def _copy(client: Redis, memory: BaseMachineMemory, count: int) -> None:
    """Have so many machines that are alike."""
    first, *others = map(stores.machine_id, range(count))
    memory.write(first, order())
    with client.pipeline(transaction=False) as pipeline:
        for id in others:
            pipeline.copy(f"{stores.PREFIX}{NAMESPACE}{first}", f"{stores.PREFIX}{NAMESPACE}{id}")
        pipeline.execute()


def _children(run: Run, section: Section) -> None:
    count = CROWD[run.size]
    run.says(f"{count:,} machines are written to a Redis")
    with RedisServer(programs()[-1], **APPENDING) as server, Redis.from_url(server.url) as client:
        memory = Place("Redis", [server.url]).memory()
        before = client.info("memory")["used_memory"]
        _copy(client, memory, count)
        parents = [stores.machine_id(number) for number in range(0, count, stores.FAMILY)]
        for number, parent in enumerate(parents):
            for child in range(1, stores.CHILDREN + 1):
                id = stores.machine_id(count + number * stores.CHILDREN + child)
                memory.write(id, order(), metadata=Metadata(parent=parent))
        bytes_each = (client.info("memory")["used_memory"] - before) / client.dbsize()
        contestant = Contestant("children", {CYCLE: memory.children}, endless(parents))
        race = run.race("children on Redis", [contestant], share=0.25)
        spent, written = _spent(client), client.info("persistence")["aof_current_size"]
        _counted(Side(Place("Redis"), lambda: [_scripts(client)]), memory)
        spent, written = _spent(client) - spent, client.info("persistence")["aof_current_size"] - written
    took = race.median("children") / MILLISECOND
    section.table(
        f"Redis with {count:,} machines",
        [
            "children of one, ms",
            "p99, ms",
            "memory of a machine, bytes",
            "file for a cycle, bytes",
            "server's time, µs",
        ],
        [[took, race.p99("children") / MILLISECOND, bytes_each, written / COUNTED, spent / COUNTED]],
    )
    section.bar(f"Redis: children of one among {count:,} machines", took, "ms", most=MOST_CHILDREN)
