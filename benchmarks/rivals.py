"""Against the raw driver running the same statements by hand, and against what a user would pick instead."""

import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from datetime import timedelta
from functools import partial
from importlib import import_module
from itertools import cycle as repeated
from itertools import islice
from typing import Any

from django.db import transaction
from django.utils import timezone

from benchmarks import stores
from benchmarks.contestants import DENIED, OURS, PREPARED, RAW, TTL, VERBS, expect, hold, on_store, postgresql
from benchmarks.measure import CYCLE, Contestant, Race, Run
from benchmarks.models import HandMade
from benchmarks.order import advance, order
from benchmarks.report import Section

MACHINES, FEW, SOME = 1_000, 10, 500
LAPS: list[tuple[Sequence[str], Callable[[int], Iterator[str]], float]]
LAPS = [([CYCLE], stores.ids, 1), ([DENIED], stores.held_ids, 0.5), (VERBS, stores.ids, 1)]
"""Steps that are taken together, at which machines, and for which share of the usual time."""
MOST = {"postgresql": 1.3, stores.REDIS: 1.3}
"""Times the raw driver that a cycle may take."""
MOST_DENIED = 1.5
SIZES = {"1 kB": 1_000, "100 kB": 100_000, "1 MB": 1_000_000}
Cycle = Callable[[str], object]
"""Takes the lock, reads the state, changes it, writes it and releases."""
RECIPE, WARY_RECIPE = "select_for_update by hand", "select_for_update by hand, for each change"
REDIS_LOCK = "redis-py Lock, get and set"
GUARDED = (OURS, PREPARED, RECIPE, WARY_RECIPE)
"""They refuse the write of somebody who lost the lock."""
LEAST = {"postgresql": (RECIPE, 3.0), stores.REDIS: (REDIS_LOCK, 1.0)}
"""Times as long as this package that a peer is to take."""


def cycle(run: Run) -> Section:
    section = Section(
        "Lease and commit, and the verbs apart",
        "Ratios are against the raw driver, which runs the same statements or scripts by hand; for the in-process"
        " memory that is a dict and a mutex. psycopg prepares nothing, as behind PgBouncer, except where it says so.",
    )
    for store in stores.STORES:
        with on_store(store, MACHINES) as those:
            hold(those, MACHINES)
            races: dict[str, Race] = {}
            for steps, ids, share in LAPS:
                picked = {name: {step: verbs[step] for step in steps} for name, verbs in those.items()}
                contestants = [Contestant(name, verbs, ids(MACHINES)) for name, verbs in picked.items()]
                race = run.race(f"{', '.join(steps)}, {stores.NAMES[store]}", contestants, share=share)
                races |= dict.fromkeys(steps, race)
        columns = [f"{name}, {unit}" for name in those for unit in ("µs", "ratio") if (name, unit) != (RAW, "ratio")]
        rows = [[step, *_figures(those, step, race)] for step, race in races.items()]
        section.table(stores.NAMES[store], ["", *columns], rows)
        if store in MOST:
            rival = "two raw EVALSHA" if store == stores.REDIS else "the raw driver"
            what = f"{stores.NAMES[store]}: lease + commit, against {rival}"
            section.bar(what, races[CYCLE].ratio(OURS, RAW), most=MOST[store])
        if store not in (stores.SIMPLE, "sqlite"):  # Whose drivers take less time than Python's own steps.
            what = f"{stores.NAMES[store]}: a denied lock, against the raw driver"
            section.bar(what, races[DENIED].ratio(OURS, RAW, DENIED), most=MOST_DENIED)
    return section


def _figures(names: Iterable[str], step: str, race: Race) -> Iterator[float]:
    for name in names:
        yield race.median(name, step)
        if name != RAW:
            yield race.ratio(name, RAW, step)


def size(run: Run) -> Section:
    section = Section("Size of the state", "Ratios are against the raw driver.")
    ids = [stores.machine_id(number) for number in range(1, FEW + 1)]
    for store in stores.STORES:
        rows = []
        for title, size in SIZES.items():
            with on_store(store, FEW, size=size) as those:
                contestants = [Contestant(name, {CYCLE: those[name][CYCLE]}, repeated(ids)) for name in (OURS, RAW)]
                race = run.race(f"{title} of state, {stores.NAMES[store]}", contestants, share=0.5, turn=2)
            rows.append([title, race.median(OURS), race.ratio(OURS, RAW), race.median(RAW)])
        section.table(stores.NAMES[store], ["state", f"{OURS}, µs", "ratio", f"{RAW}, µs"], rows)
    return section


def peers(run: Run) -> Section:
    section = Section(
        "Instead of this package",
        "A cycle takes a lock, reads the state, changes it, writes it and releases. The ratio says how many times"
        " as long as machine_memory on that store it takes.",
    )
    for store in stores.SERVED:
        with on_store(store, SOME) as those, ExitStack() as ended:
            ours = {name: those[name][CYCLE] for name in (OURS, PREPARED) if name in those}
            rivals = dict(_rivals(run, store, ended))
            contestants = [Contestant(name, {CYCLE: it}, repeated(_ids())) for name, it in (ours | rivals).items()]
            race = run.race(f"peers, {stores.NAMES[store]}", contestants, share=1 + len(rivals) / 4)
        rows = []
        for name in (*ours, *rivals):
            guard = "yes" if name in GUARDED else "no"
            rows.append([name, race.median(name), race.p99(name), race.ratio(name, OURS), guard])
        section.table(stores.NAMES[store], ["", "p50, µs", "p99, µs", "ratio", "refuses a stale write"], rows)
        if store in LEAST:
            rival, least = LEAST[store]
            what = f"{stores.NAMES[store]}: {rival}, against lease + commit"
            section.bar(what, race.ratio(rival, OURS), least=least)
    return section


def _ids() -> list[str]:
    return list(islice(stores.ids(SOME), SOME // 2))


def _rivals(run: Run, store: str, ended: ExitStack) -> Iterator[tuple[str, Cycle]]:
    if store in stores.DATABASES:
        HandMade.objects.using(store).bulk_create(HandMade(id=id, state=order()) for id in _ids())
    for name, homes, connected in PEERS:
        if store in homes:
            try:
                yield name, ended.enter_context(connected(store))
            except (ImportError, ConnectionError) as reason:
                run.missing[name] = str(reason)


@contextmanager
def _recipe(store: str) -> Iterator[Cycle]:
    """A table with the state and who works on it until when, kept with the ORM in as few queries as it takes."""
    rows = HandMade.objects.using(store)

    def take(id: str) -> None:
        token = secrets.token_hex(16)
        with transaction.atomic(using=store):
            row = rows.select_for_update().get(pk=id)
            expect(row.locked_until is None or row.locked_until <= timezone.now())
            rows.filter(pk=id).update(locked_by=token, locked_until=timezone.now() + timedelta(seconds=TTL))
        state = rows.get(pk=id).state
        advance(state)
        expect(rows.filter(pk=id, locked_by=token).update(state=state))
        expect(rows.filter(pk=id, locked_by=token).update(locked_by=None, locked_until=None))

    yield take


@contextmanager
def _wary_recipe(store: str) -> Iterator[Cycle]:
    """The same, where every change looks at the row first."""
    rows = HandMade.objects.using(store)

    @contextmanager
    def locked(id: str) -> Iterator[HandMade]:
        with transaction.atomic(using=store):
            row = rows.select_for_update().get(pk=id)
            yield row
            row.save()

    def take(id: str) -> None:
        token = secrets.token_hex(16)
        with locked(id) as row:
            expect(row.locked_until is None or row.locked_until <= timezone.now())
            row.locked_by, row.locked_until = token, timezone.now() + timedelta(seconds=TTL)
        state = rows.get(pk=id).state
        advance(state)
        with locked(id) as row:
            expect(row.locked_by == token)
            row.state = state
        with locked(id) as row:
            expect(row.locked_by == token)
            row.locked_by = row.locked_until = None

    yield take


@contextmanager
def _advisory_lock(store: str) -> Iterator[Cycle]:
    pglock, rows = import_module("pglock"), HandMade.objects.using(store)

    def take(id: str) -> None:
        with pglock.advisory(id, timeout=0, using=store) as acquired:
            expect(acquired)
            row = rows.get(pk=id)
            advance(row.state)
            row.save()

    yield take


@contextmanager
def _langgraph(store: str) -> Iterator[Cycle]:
    """It keeps every state."""
    base = import_module("langgraph.checkpoint.base")
    new_id = import_module("langgraph.checkpoint.base.id").uuid6
    postgres, rows = import_module("langgraph.checkpoint.postgres"), import_module("psycopg.rows")
    # As its own `from_conn_string` connects.
    with closing(postgresql(prepare_threshold=0, row_factory=rows.dict_row)) as connection:
        saver = postgres.PostgresSaver(connection)
        saver.setup()

        def thread(id: str) -> dict[str, Any]:
            return {"configurable": {"thread_id": id, "checkpoint_ns": ""}}

        def put(config: dict[str, Any], checkpoint: dict[str, Any], state: dict[str, Any], version: int) -> None:
            versions = {"order": version}
            new = {"id": str(new_id()), "channel_values": {"order": state}, "channel_versions": versions}
            saver.put(config, checkpoint | new, {"source": "loop", "step": version, "parents": {}}, versions)

        def take(id: str) -> None:
            found = saver.get_tuple(thread(id))
            state = found.checkpoint["channel_values"]["order"]
            advance(state)
            put(found.config, found.checkpoint, state, found.checkpoint["channel_versions"]["order"] + 1)

        for id in _ids():
            put(thread(id), base.empty_checkpoint(), order(), 1)
        yield take


@contextmanager
def _redis_lock(store: str, module: str, **ttl: int) -> Iterator[Cycle]:
    """A lock, and a value beside it."""
    build = import_module(module).Lock
    with stores.redis() as client:

        def take(id: str) -> None:
            lock, key = build(client, f"{stores.PREFIX}lock:{id}", **ttl), f"{stores.PREFIX}{module}:{id}"
            expect(lock.acquire(blocking=False))
            state = json.loads(client.get(key))
            advance(state)
            client.set(key, json.dumps(state))
            lock.release()

        for id in _ids():
            client.set(f"{stores.PREFIX}{module}:{id}", json.dumps(order()))
        yield take


PEERS: list[tuple[str, list[str], Callable[[str], AbstractContextManager[Cycle]]]] = [
    (RECIPE, stores.DATABASES, _recipe),
    (WARY_RECIPE, stores.DATABASES, _wary_recipe),
    ("django-pglock, model save", ["postgresql"], _advisory_lock),
    ("LangGraph PostgresSaver, no lock", ["postgresql"], _langgraph),
    (REDIS_LOCK, [stores.REDIS], partial(_redis_lock, module="redis.lock", timeout=TTL)),
    ("python-redis-lock, get and set", [stores.REDIS], partial(_redis_lock, module="redis_lock", expire=TTL)),
]
"""Names, where they are at home, and what connects them."""
