"""What many cycles leave behind in a database: room that is not given back, and bytes in its log."""

from dataclasses import dataclass
from itertools import islice
from statistics import median

from django.db import connections

from benchmarks import databases, lineup, storage
from benchmarks.contestants import OURS, Verbs
from benchmarks.order import order
from benchmarks.raw import RAW

MACHINES = 1_000
BATCHES, BATCH = 11, 50
"""So many times, so many cycles are counted in the log: few enough for SQLite not to begin its log anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wear:
    before: tuple[int, int | None]
    """Bytes of the table and its indexes."""
    after: tuple[int, int | None]
    hot_share: float | None
    logged: dict[str, float]
    """Bytes in the log for each cycle, by contestant."""


def wear(alias: str, cycles: int) -> Wear:
    """Go through ``cycles`` on a thousand machines, in a scratch database that is there and empty."""
    try:
        databases.fill(alias, MACHINES, held=databases.SPREAD)
        with lineup.on_store(alias, order(), forms=False) as contestants:
            before = storage.room(alias)
            for id in islice(databases.ids(MACHINES), cycles):
                contestants[0].cycle(id)
            return Wear(
                before=before,
                after=storage.room(alias),
                hot_share=storage.hot_share(alias),
                logged=_logged(alias, contestants),
            )
    finally:
        connections[alias].close()


def _logged(alias: str, contestants: list[Verbs]) -> dict[str, float]:
    ids = databases.ids(MACHINES)
    batches: dict[str, list[int]] = {}
    for _ in range(BATCHES):
        for contestant in contestants:
            if contestant.name in {OURS, RAW}:
                some = list(islice(ids, BATCH))

                def cycles(contestant: Verbs = contestant, some: list[str] = some) -> None:
                    for id in some:
                        contestant.cycle(id)

                batches.setdefault(contestant.name, []).append(storage.logged(alias, cycles))
    return {name: median(counts) / BATCH for name, counts in batches.items()}
