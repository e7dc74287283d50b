"""Which context holds what: a thread or a task, the tasks that it spawns, and the requests and tasks of the host."""

import asyncio
import logging
import os
import socket
import threading
from collections.abc import Hashable, Iterator
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any

from django.core.signals import request_finished, request_started

from machine_memory.validation import MAX_LABEL_LENGTH

if TYPE_CHECKING:
    from machine_memory.lease import Lease

logger = logging.getLogger(__name__)

SHARDS, OF_A_SHARD = 64, 64
"""A context remembers up to their product of leases: of each shard, the latest."""

Shards = tuple[dict[Hashable, "Lease"], ...]

# A thread begins with an empty context, a task with a copy of its parent's: so the thread or task that locked is the
# holder, and tasks that it spawns. What is remembered is replaced, never changed, or a task would change its parent's:
# by shards, so that it costs the same however much there is.
_NOTHING: Shards = ({},) * SHARDS
_held: ContextVar[Shards] = ContextVar("machine_memory_held", default=_NOTHING)
_began: ContextVar[tuple[Shards, ...]] = ContextVar("machine_memory_began", default=())
NESTED = 10
"""Requests and tasks within each other. Some hosts never say that one is over."""


def held(memory: object, id: str) -> "Lease | None":
    """Return the lease that this context took of ``id`` and has not given back, be it live or lost."""
    key = (memory, id)
    lease = _held.get()[hash(key) % SHARDS].get(key)
    if lease is None or not lease._is_given_back:
        return lease
    if lease._is_settled:
        forget(lease)
    return None


def hold(lease: "Lease") -> None:
    key = lease._key
    shards, place = _held.get(), hash(key) % SHARDS
    shard = shards[place] | {key: lease}
    if len(shard) > OF_A_SHARD:
        del shard[next(iter(shard))]
    _held.set((*shards[:place], shard, *shards[place + 1 :]))


def forget(lease: "Lease") -> None:
    key = lease._key
    shards, place = _held.get(), hash(key) % SHARDS
    if shards[place].get(key) is lease:
        shard = shards[place].copy()
        del shard[key]
        _held.set((*shards[:place], shard, *shards[place + 1 :]))


def begin(**kwargs: Any) -> None:
    """Remember what this context holds before a request or task of the host."""
    _began.set((*_began.get()[1 - NESTED :], _held.get()))


def end(**kwargs: Any) -> None:
    """Forget what a request or task of the host still holds at its end: the next one here is another worker."""
    *outer, before = _began.get() or (_NOTHING,)
    forgotten = list(_added(before, _held.get()))
    _began.set(tuple(outer))
    _held.set(before)
    if forgotten:
        logger.warning(
            "%d locks were still held when the request or task that took them ended: they end by their ttl."
            " Unlock in a finally clause, or use `with memory.lease(...)`.",
            len(forgotten),
        )


def connect() -> None:
    """Have the host tell where its requests and tasks begin and end: Django's, and Celery's where it is installed."""
    request_started.connect(begin)
    request_finished.connect(end)
    try:
        from django.tasks.signals import task_finished, task_started  # noqa: PLC0415  # From Django 6.0 on.
    except ImportError:
        pass
    else:
        task_started.connect(begin)
        task_finished.connect(end)
    try:
        from celery.signals import task_postrun, task_prerun  # type: ignore[import-not-found]  # noqa: PLC0415
    except ImportError:
        pass
    else:
        task_prerun.connect(begin)
        task_postrun.connect(end)


def _added(before: Shards, now: Shards) -> Iterator["Lease"]:
    for old, new in zip(before, now, strict=True):
        if new is not old:
            yield from (lease for key, lease in new.items() if old.get(key) is not lease and not lease._is_given_back)


@cache
def _host() -> str:
    return socket.gethostname()


def describe_owner() -> str:
    """Describe this context to people: host, process, and thread or task."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    name = task.get_name() if task else threading.current_thread().name
    owner = f"{_host()}:{os.getpid()}:{name}".replace("\0", "")[:MAX_LABEL_LENGTH]
    return owner if owner.isascii() else owner.encode("utf-8", "replace").decode()
