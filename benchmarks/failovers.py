"""What the death of a primary costs whoever works with its machines meanwhile."""

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from statistics import median

from django.core.management import call_command
from django.db import connections

from benchmarks import stores
from benchmarks.measure import Run
from benchmarks.order import order
from benchmarks.report import Section
from machine_memory import BaseMachineMemory, DatabaseMachineMemory, MachineMemoryError, RedisMachineMemory
from tests.clusters import replicas
from tests.clusters.processes import configured
from tests.clusters.redis_cluster import NODE_TIMEOUT, RedisNodes
from tests.clusters.replicas import Pair

MACHINES = 20
"""At the node that dies, each asked for in turn: what was held by a call that failed is not in the way."""
PAUSE = 0.01
"""Seconds from a call that failed to the next."""
MOST = 60
"""Seconds that this may take."""
Cost = tuple[float, int]
"""Seconds until a cycle was done again, and calls that failed meanwhile."""


def failovers(run: Run, section: Section) -> None:
    rows: list[list[object]] = []
    run.says("primaries of a Redis Cluster are killed")
    rows.append([f"Redis Cluster, each primary with a replica, node timeout {NODE_TIMEOUT} ms", *_middle(_redis())])
    if not replicas.missing:
        run.says("the primary of a PostgreSQL is killed")
        rows.append(["PostgreSQL, synchronous replica, promoted at once", *_middle(_postgresql())])
    section.table(
        f"A primary is killed; a caller tries again {PAUSE * 1000:.0f} ms after each failure",
        ["", "seconds until the next cycle is done", "calls that failed"],
        rows,
    )


def _middle(costs: Iterable[Cost]) -> Cost:
    seconds, failed = zip(*costs, strict=True)
    return median(seconds), round(median(failed))


def _redis() -> Iterator[Cost]:
    with RedisNodes(replicas=1) as nodes:
        nodes.wait()
        memory = RedisMachineMemory(cluster=nodes.urls, key_prefix=stores.PREFIX, socket_timeout=1)
        for victim in nodes.primaries:
            places = ((id, nodes.owner(f"{stores.PREFIX}machine:{id}")) for id in stores.ids(1_000_000))
            ids = list(islice((id for id, owner in places if owner is victim), MACHINES))
            _take(memory, ids[0])
            victim.kill()
            yield _until_it_goes_on(memory, ids)
        memory.store.start_afresh()


def _postgresql() -> Iterator[Cost]:
    pair = Pair(synchronous=True)
    try:
        with configured(replicas.ALIAS, pair.settings()), ThreadPoolExecutor(1) as watcher:
            call_command("migrate", database=replicas.ALIAS, verbosity=0)
            memory = DatabaseMachineMemory(using=replicas.ALIAS)
            ids = list(islice(stores.ids(1_000), MACHINES))
            _take(memory, ids[0])
            pair.primary.kill()
            promoted = watcher.submit(pair.replica.promote)
            yield _until_it_goes_on(memory, ids)
            promoted.result()
            connections[replicas.ALIAS].close()
    finally:
        pair.close()


def _until_it_goes_on(memory: BaseMachineMemory, ids: list[str]) -> Cost:
    began, failed = time.monotonic(), 0
    for id in cycle(ids):
        try:
            _take(memory, id)
        except MachineMemoryError:
            failed += 1
            if time.monotonic() - began > MOST:
                raise
            time.sleep(PAUSE)
        else:
            break
    return time.monotonic() - began, failed


def _take(memory: BaseMachineMemory, id: str) -> None:
    with memory.lease(id) as lease:
        lease.commit(order())
