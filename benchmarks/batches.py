"""Many machines at once: a batch against one lease after the other, also over a link of a millisecond."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice

from django.db import connections
from redis import Redis

from benchmarks import stores
from benchmarks.contestants import cycle
from benchmarks.measure import CYCLE, Contestant, Run
from benchmarks.order import advance
from benchmarks.report import Section
from machine_memory import BaseMachineMemory, DatabaseMachineMemory, RedisMachineMemory
from tests.proxy import Proxy

MACHINES = 10_000
ONE, JUDGED = 1, 100
SIZES = (ONE, 10, JUDGED, 500)
BARS = {"postgresql": 8, "mariadb": 5, "sqlite": 2, stores.REDIS: 2}
"""How many times as many machines a second, in batches of 100."""
FAR = ("postgresql", stores.REDIS)
LINK = 0.001
"""Seconds that an answer takes over a link."""
LEAST_FAR = 15
MOST = 1.15
"""How many times as long a batch of one may take as a lease."""
ALONE = "one by one"


def batches(run: Run) -> Section:
    section = Section(
        "Batches",
        "Lease, state, a step of work, commit: of each machine alone, and of so many in one batch. Per machine.",
    )
    with stores.scratch(dict.fromkeys(stores.SERVED, MACHINES)):
        for store in stores.SERVED:
            _compare(run, section, stores.NAMES[store], stores.memory(store), BARS[store])
        for store in stores.SERVED:
            if store in FAR:
                with _over_a_link(store) as memory:
                    _compare(run, section, f"{stores.NAMES[store]}, a millisecond away", memory, LEAST_FAR)
    return section


def _compare(run: Run, section: Section, name: str, memory: BaseMachineMemory, least: float) -> None:
    contestants = [Contestant(ALONE, {CYCLE: cycle(memory)}, stores.ids(MACHINES))]
    batches = {str(size): _batch(memory, size) for size in SIZES}
    contestants += [Contestant(size, {CYCLE: take}, stores.ids(MACHINES)) for size, take in batches.items()]
    race = run.race(f"batches, {name}", contestants, turn=4)
    rows: list[list[object]] = [[ALONE, race.median(ALONE), 1_000_000 / race.median(ALONE), 1.0]]
    for size in SIZES:
        each = race.median(str(size)) / size
        rows.append([f"batch of {size}", each, 1_000_000 / each, size / race.ratio(str(size), ALONE)])
    section.table(name, ["", "µs a machine", "machines a second", "times as many"], rows)
    many = JUDGED / race.ratio(str(JUDGED), ALONE)
    section.bar(f"{name}: machines a second, batch of {JUDGED} against one by one", many, least=least)
    section.bar(f"{name}: batch of one against a lease", race.ratio(str(ONE), ALONE), most=MOST)


def _batch(memory: BaseMachineMemory, size: int) -> Callable[[str], None]:
    """Return what leases, advances and commits so many machines; it goes through them all by itself."""
    ids = stores.ids(MACHINES)

    def take(id: str) -> None:
        states = {}
        with memory.leases(islice(ids, size)) as batch:
            for lease in batch:
                state = lease.data
                advance(state)
                states[lease.id] = state
            batch.commit(states)

    return take


@contextmanager
def _over_a_link(store: str) -> Iterator[BaseMachineMemory]:
    if store == stores.REDIS:
        with stores.redis() as client:
            direct = client.connection_pool.connection_kwargs
        proxy = Proxy((direct["host"], direct["port"]))
        kept = {name: direct.get(name) for name in ("db", "username", "password")}
        client = Redis(host="127.0.0.1", port=proxy.port, **kept)
        memory: BaseMachineMemory = RedisMachineMemory(client=client, key_prefix=stores.PREFIX)
    else:
        settings, alias = connections.settings[store], f"{store}-far"
        proxy = Proxy((settings["HOST"], int(settings["PORT"] or 5432)))
        there = {"HOST": "127.0.0.1", "PORT": str(proxy.port), "OPTIONS": {"sslmode": "disable"}}
        connections.settings[alias] = {**settings, **there}
        memory = DatabaseMachineMemory(using=alias)
    proxy.delay = LINK
    try:
        yield memory
    finally:
        memory.store.start_afresh()
        proxy.close()
