"""Who belongs to whom: an index of the children of each parent, and one of the tree of each root.

A machine gets parent and root by its first write, and keeps them. Until then there may be a hint of it, from a write
that is still on its way or was refused; after it was removed there is one until somebody sees that.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import NamedTuple

from redis import RedisError

from machine_memory.backends.redis import scripts
from machine_memory.backends.redis.hashes import Hashes, as_text, done
from machine_memory.backends.redis.hints import DECIDED, Hint, Hints

CHILDREN, TREE = "children", "tree"
"""Of the keys of the indexes."""
FIELDS = ["parent", "root"]


class Relations(NamedTuple):
    """What a machine has, or will have: a parent and a root."""

    parent: str
    root: str

    @property
    def indexes(self) -> tuple[tuple[str, str], tuple[str, str]]:
        return (CHILDREN, self.parent), (TREE, self.root)


def relations(removed: Iterable[tuple[str, list[bytes | None]]]) -> dict[str, Relations]:
    """Return the relations that machines had, as the scripts say it; some had none."""
    texts = {id: [as_text(one) for one in had] for id, had in removed}
    return {id: Relations(parent, root) for id, (parent, root) in texts.items() if parent and root}


class Relatives:
    """The indexes of a namespace."""

    def __init__(self, hashes: Hashes) -> None:
        self._hashes = hashes

    def announce(self, relations: Mapping[str, Relations]) -> str:
        """Say ahead whose relatives these will be, by id, and return the number of the oldest hint."""
        ids = defaultdict(list)
        for id, (parent, root) in relations.items():
            ids[CHILDREN, parent].append(id)
            ids[TREE, root].append(id)
        calls = [(self._hashes.beside(*index), "", 0, *some) for index, some in ids.items()]
        return str(min(map(int, done(self._hashes.run_each_at(scripts.HINT, calls)))))

    def children(self, id: str) -> set[str]:
        return self._found(CHILDREN, "parent", id)

    def tree(self, root: str) -> set[str]:
        return self._found(TREE, "root", root)

    def wanted(self, id: str, parent: str | None, root: str | None, now: int) -> Iterator[tuple[str, Hint]]:
        """Yield the hints that a machine with these fields should have, each with the key of its index."""
        if parent and root:
            for index in Relations(parent, root).indexes:
                yield self._hashes.beside(*index), Hint(id, now)

    def tidy(self) -> None:
        """Remove the hints of machines that are gone."""
        for name, find in ((CHILDREN, self.children), (TREE, self.tree)):
            for id in self._hashes.beside_all(name):
                find(id)

    def forget(self, removed: Mapping[str, Relations]) -> None:
        """Remove the hints of machines that are gone, by id: those that are old enough."""
        places = [(self._hashes.beside(*index), id) for id, of in removed.items() for index in of.indexes]
        scores = done(self._hashes.asked([(key, "ZSCORE", key, id) for key, id in places]))
        gone = {id: now for id, now, (root,) in self._hashes.rows(removed, ["root"]) if root is None}
        wrong = [
            (key, id, int(float(score)), "")
            for (key, id), score in zip(places, scores, strict=True)
            if score is not None and id in gone and gone[id] - float(score) > DECIDED
        ]
        done(self._hashes.run_each_at(scripts.MEND, wrong))

    def _found(self, name: str, field: str, id: str) -> set[str]:
        index, found = Hints(self._hashes, name, id), set()
        seen = {hint.member: hint for hint in index.all()}
        wrong: dict[Hint, str] = {}
        for one, now, (known,) in self._hashes.rows({*seen, id}, [field]):
            if known == id:
                found.add(one)
            elif one in seen and now - seen[one].score > DECIDED:
                wrong[seen[one]] = ""
        with suppress(RedisError):  # One that is left costs another look.
            index.mend(wrong)
        return found
