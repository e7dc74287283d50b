"""Indexes, each a sorted set in a key of its own, whose entries are hints. The hash of a machine is the truth.

A hint is written before what it is for, so that nothing is without one; whoever reads it asks the hash. As the scripts
take no hint that is older than ``scripts.MOST_AGE``, one that is wrong can go after a while; and only as it was seen,
as it may have been written anew since.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from machine_memory.backends.redis import scripts
from machine_memory.backends.redis.hashes import SCANNED, Hashes, done

DECIDED = 2 * scripts.MOST_AGE
"""Microseconds after which a hint that is wrong stays so."""


class Hint(NamedTuple):
    """Something that is worth a look, with its score."""

    member: str
    score: int


class Hints:
    """The hints of one index."""

    def __init__(self, hashes: Hashes, name: str, id: str = "") -> None:
        self._hashes, self.key = hashes, hashes.beside(name, id)

    def add(self, score: str, ids: Iterable[str], gone: Collection[str] = ()) -> str:
        """Add a hint of each of these ids, and return their number; others of these members go."""
        number: bytes = self._run(scripts.HINT, score, len(gone), *gone, *ids)
        return number.decode()

    def due(self, first: int, most: int) -> list[Hint]:
        """Return those whose scores are moments that have come: so many of those after the first."""
        found = iter(self._run(scripts.DUE, first, most))
        return [_hint(member, score) for member, score in zip(found, found, strict=True)]

    def all(self) -> Iterator[Hint]:
        """Yield every one, some perhaps twice."""
        cursor: int | None = None
        while cursor != 0:
            call = (self.key, "ZSCAN", self.key, cursor or 0, "COUNT", SCANNED)
            ((cursor, found),) = done(self._hashes.asked([call]))
            yield from (_hint(member, score) for member, score in found)

    def mend(self, scores: Mapping[Hint, str]) -> int:
        """Give hints other scores, or remove them (``""``), and return of how many that was done."""
        changes = ((*hint, score) for hint, score in scores.items())
        return int(self._run(scripts.MEND, *(value for change in changes for value in change))) if scores else 0

    def _run(self, script: scripts.Script, *args: str | int) -> Any:
        return self._hashes.run_at(self.key, script, *args)


def _hint(member: bytes, score: Any) -> Hint:
    return Hint(member.decode(), int(float(score)))
