"""The indexes of a namespace: what is said in them ahead of a write, and how they are mended as a whole."""

from collections import defaultdict, deque
from collections.abc import Collection, Iterator
from contextlib import suppress
from datetime import timedelta
from itertools import islice
from typing import Any, NamedTuple

from redis import RedisError

from machine_memory.backends.redis import due, relatives, scripts
from machine_memory.backends.redis.hashes import SCANNED, Hashes, done, microseconds
from machine_memory.backends.redis.hints import Hint, Hints
from machine_memory.backends.redis.relatives import Relations, Relatives
from machine_memory.core.records import Change, Keep, Reindexed, Snapshot, WakeAt

NEVER = "never"
MOST_ENDED = 1000
"""Hints of timers that are over, which go with the next ones that come. Others are found when all are mended."""


class Ahead(NamedTuple):
    """What was said ahead of writes: the numbers of the hints of their timers and of their relatives, if any."""

    timer: str | None
    related: str | None
    roots: dict[str, str]
    """Of those that are new among their relatives, by id."""


class Indexes:
    """Of timers, and of relatives."""

    def __init__(self, hashes: Hashes) -> None:
        self._hashes = hashes
        self.due, self.relatives = Hints(hashes, due.NAME), Relatives(hashes)
        self._ended: deque[str] = deque(maxlen=MOST_ENDED)

    def go_ahead(self, changes: Collection[Change]) -> Ahead:
        """Say what these will be, which are alike in their timers."""
        wakes = wakes_at(next(iter(changes)).wake_at)
        timed = wakes not in ("", NEVER)
        hint = self.due.add(wakes, [change.id for change in changes], self._over()) if timed else None
        new = self._relations([change for change in changes if change.ancestor and not change.expected_version])
        related = self.relatives.announce(new) if new else None
        return Ahead(hint, related, {id: root for id, (_, root) in new.items()})

    def written(self, id: str, reply: Any) -> int:
        """Return the version that a write has made, as it was answered; 0: none."""
        version, *ended = reply if isinstance(reply, list) else [reply]
        if not isinstance(version, int) or version < 1:
            return 0
        self.ended(id, *ended)
        return version

    def ended(self, id: str, number: bytes | None = None) -> None:
        """Take note that the timer of a machine is over which has the hint with this number, if any."""
        if number:
            self._ended.append(f"{number.decode()}:{id}")

    def _over(self) -> list[str]:
        over: list[str] = []
        with suppress(IndexError):  # Other threads take them, too.
            over.extend(self._ended.popleft() for _ in range(len(self._ended)))
        return over

    def _relations(self, born: Collection[Change]) -> dict[str, Relations]:
        """Return the relations that machines will have by their first state; what has one keeps its own."""
        asked = {id for change in born for id in (change.id, change.ancestor or "")}
        rows = self._hashes.rows(asked, ["root"]) if born else ()
        roots = dict.fromkeys(asked) | {id: root for id, _, (root,) in rows}
        return {
            change.id: Relations(change.metadata.parent or "", roots[change.ancestor or ""] or change.ancestor or "")
            for change in born
            if not roots[change.id]
        }

    def go_ahead_of(self, machines: Collection[Snapshot]) -> tuple[dict[str, str], str | None]:
        """Say what these will be. Returns the numbers of the hints: of their timers by id, and of their relatives."""
        ids = defaultdict(list)
        for machine in machines:
            if machine.wake_at is not None:
                ids[wakes_at(machine.wake_at)].append(machine.id)
        numbers = done(
            self._hashes.run_each_at(scripts.HINT, [(self.due.key, at, 0, *some) for at, some in ids.items()])
        )
        timers = {id: number.decode() for some, number in zip(ids.values(), numbers, strict=True) for id in some}
        new = {machine.id: Relations(machine.parent, machine.root) for machine in machines if machine.parent}
        return timers, self.relatives.announce(new) if new else None

    def forget(self, removed: dict[str, Relations]) -> None:
        """Remove what is said of machines that are gone, by id, where it is old enough."""
        with suppress(RedisError):  # A hint that is left costs another look.
            if removed:
                self.relatives.forget(removed)

    def mend(self, *, dry_run: bool) -> Iterator[Reindexed]:
        """Add the hints that are missing, some machines at a time, and remove those that are wrong and old.

        Others may write meanwhile: a hint too many does no harm, and one that is there stays as it is.
        """
        rows = self._hashes.scan(*due.FIELDS, *relatives.FIELDS)
        while some := list(islice(rows, SCANNED)):
            hints: list[tuple[str, Hint]] = []
            for id, now, (wake_at, known, parent, root) in some:
                hints += [(self.due.key, hint) for hint in due.wanted(id, wake_at, known)]
                hints += self.relatives.wanted(id, parent, root, now)
            yield Reindexed(machines=len(some), lacking=self._lacking(hints, dry_run=dry_run))
        if not dry_run:
            due.tidy(self._hashes, self.due)
            self.relatives.tidy()

    def _lacking(self, hints: list[tuple[str, Hint]], *, dry_run: bool) -> int:
        if dry_run:
            scores = self._hashes.asked([(key, "ZSCORE", key, hint.member) for key, hint in hints])
            return done(scores).count(None)
        return sum(done(self._hashes.asked([(key, "ZADD", key, "NX", hint.score, hint.member) for key, hint in hints])))


def wakes_at(wake_at: WakeAt) -> str:
    if isinstance(wake_at, timedelta):
        return f"+{microseconds(wake_at.total_seconds())}"
    if isinstance(wake_at, Keep):
        return ""
    return NEVER if wake_at is None else str(microseconds(wake_at.timestamp()))
