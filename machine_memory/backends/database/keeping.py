"""Leases of many, extended or ended together; those whose rows are in use are passed over."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import TypeVar

from django.db import OperationalError, connections

from machine_memory.backends.database import contention
from machine_memory.backends.database.queries import MachineQuerySet
from machine_memory.core.records import LeaseRef

T = TypeVar("T")


def renew(
    machines: MachineQuerySet, step: Callable[..., set[str]], leases: Collection[LeaseRef], batch: int
) -> tuple[set[str], set[str]]:
    """Extend them by ``step``. Returns the tokens of those it did, and of those that are over."""
    by_ttl: dict[float, dict[str, str]] = defaultdict(dict)
    for id, token, ttl in leases:
        by_ttl[ttl][token] = id
    renewed, over = set[str](), set[str]()
    for ttl, ids in by_ttl.items():
        for some, done in _each(machines, ids, partial(step, ttl=ttl), batch):
            renewed |= done
            if rest := some.keys() - done:
                over |= rest - set(machines.of(some).live().values_list("lease_token", flat=True))
    return renewed, over


def release(machines: MachineQuerySet, leases: Collection[LeaseRef], batch: int) -> set[str]:
    """End them. Returns the tokens of those that are over."""
    over, ids = set[str](), {token: id for id, token, _ in leases}
    if unknown := [token for token, id in ids.items() if not id]:
        ids |= dict(machines.held().filter(lease_token__in=unknown).values_list("lease_token", "pk"))
    for some, _ in _each(machines, ids, machines.release_each, batch):
        over |= some.keys() - set(machines.of(some).values_list("lease_token", flat=True))
    return over


def _each(
    machines: MachineQuerySet, ids: Mapping[str, str], step: Callable[[dict[str, str]], T], batch: int
) -> Iterator[tuple[dict[str, str], T]]:
    rest, connection = iter(ids.items()), connections[machines.db]
    while some := dict(islice(rest, batch)):
        try:
            with contention.passing_over(connection):
                done = step(some)
        except OperationalError as error:
            if not contention.is_contention(error):
                raise
        else:
            yield some, done
