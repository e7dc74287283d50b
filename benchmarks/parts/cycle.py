"""Lease and commit, and the verbs apart, against the raw driver running the same statements by hand."""

from collections.abc import Callable, Iterator, Sequence

from benchmarks import databases, lineup, stores
from benchmarks.contestants import OURS, VERBS, Verbs
from benchmarks.measure import Contestant, Race, Steps
from benchmarks.order import order
from benchmarks.raw import RAW
from benchmarks.report import Bar, Section, Table
from benchmarks.run import Run

MACHINES = 1_000
CYCLE, DENIED = "lease + commit", "denied lock"
MOST = {"postgresql": 1.3, "sqlite": 2.5, stores.REDIS: 1.3}
"""Times the raw driver that a cycle may take."""
MOST_DENIED = 1.5


def measured(run: Run) -> Section:
    section = Section(
        "Lease and commit, and the verbs apart",
        "Ratios are against the raw driver, which runs the same statements or scripts by hand; for the in-process"
        " memory that is a dict and a mutex. psycopg prepares nothing, as behind PgBouncer, except where it says so.",
    )
    state = order()
    for name in stores.available():
        with stores.scratch(name):
            stores.fill(name, MACHINES)
            with lineup.on_store(name, state) as contestants:
                lineup.hold(contestants[0], MACHINES)
                races = _races(run, stores.NAMES[name], contestants)
        section.tables.append(_table(stores.NAMES[name], contestants, races))
        section.bars.extend(_bars(name, races))
    contestants = lineup.in_process(MACHINES, state)
    for contestant in contestants:
        lineup.hold(contestant, MACHINES)
    races = _races(run, "in process", contestants)
    section.tables.append(_table("SimpleMachineMemory", contestants, races))
    return section


def _races(run: Run, where: str, contestants: Sequence[Verbs]) -> dict[str, Race]:
    """Return by step the race in which it was taken."""
    free, held = databases.ids, databases.held_ids
    laps: dict[str, tuple[Callable[[int], Iterator[str]], float, Callable[[Verbs], Steps]]] = {
        "lease + commit": (free, 1, lambda it: {CYCLE: it.cycle}),
        "denied lock": (held, 0.5, lambda it: {DENIED: it.denied_lock}),
        "the verbs": (free, 1, lambda it: {verb: getattr(it, verb) for verb in VERBS}),
    }
    races = {}
    for what, (ids, share, steps) in laps.items():
        those = [Contestant(name=it.name, steps=steps(it), ids=ids(MACHINES)) for it in contestants]
        races.update(dict.fromkeys(those[0].steps, run.race(f"{what}, {where}", those, share=share)))
    return races


def _table(title: str, contestants: Sequence[Verbs], races: dict[str, Race]) -> Table:
    names = [it.name for it in contestants]
    columns = [
        "",
        *(
            column
            for name in names
            for column in ([f"{name}, µs", f"{name}, ratio"] if name != RAW else [f"{name}, µs"])
        ),
    ]
    return Table(title, columns, [[step, *_figures(names, step, races[step])] for step in races])


def _figures(names: Sequence[str], step: str, race: Race) -> Iterator[float]:
    for name in names:
        yield race.median(name, step)
        if name != RAW:
            yield race.ratio(name, step, RAW)


def _bars(name: str, races: dict[str, Race]) -> Iterator[Bar]:
    where = stores.NAMES[name]
    if name in MOST:
        ratio = races[CYCLE].ratio(OURS, CYCLE, RAW)
        rival = "two raw EVALSHA" if name == stores.REDIS else "the raw driver"
        yield Bar(what=f"{where}: lease + commit, against {rival}", measured=ratio, most=MOST[name])
    ratio = races[DENIED].ratio(OURS, DENIED, RAW)
    yield Bar(what=f"{where}: a denied lock, against the raw driver", measured=ratio, most=MOST_DENIED)
