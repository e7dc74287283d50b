"""How what is asked for many machines is cut into statements."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TypeVar

from machine_memory.core.records import Change

T = TypeVar("T")

MOST = 1024 * 1024
"""Characters of state in one statement, beyond the first machine: servers limit the size of a packet."""


def pieces(items: list[T], size: int) -> Iterator[list[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def by_size(changes: Iterable[Change], most: int) -> Iterator[list[Change]]:
    """Yield changes that one statement can make: not too large, and alike in what they do to lease and timer."""
    some: list[Change] = []
    size = 0
    for change in changes:
        size += len(change.data)
        alike = not some or (change.extend, change.wake_at) == (some[0].extend, some[0].wake_at)
        if some and (size > MOST or len(some) == most or not alike):
            yield some
            some, size = [], len(change.data)
        some.append(change)
    if some:
        yield some


def with_ancestors(changes: list[Change]) -> Iterator[Change]:
    """Yield changes with the ancestors that are there before: what is first written with them cannot be looked up."""
    first = {change.id: change.metadata.parent for change in changes if change.expected_version == 0}
    for change in changes:
        ancestor, below = change.ancestor, {change.id}
        while ancestor in first and ancestor not in below and (above := first[ancestor]):
            below.add(ancestor)
            ancestor = above
        yield change if ancestor == change.ancestor else replace(change, ancestor=ancestor)
