"""Which context holds what: a thread or a task, the tasks that it spawns, and the requests and tasks of the host."""

import asyncio
import logging
import os
import socket
import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from typing import Any

from machine_memory.core.lease import Lease, Memory
from machine_memory.core.validation import MAX_LABEL_LENGTH

logger = logging.getLogger(__name__)

SHARDS, OF_A_SHARD = 64, 64
"""A context remembers up to their product of locks: of each shard, those that end last."""

Shards = tuple[dict[Hashable, Lease], ...]

# A thread begins with an empty context, a task with a copy of its parent's: so the thread or task that locked is the
# holder, and tasks that it spawns. What is remembered is replaced, never changed, or a task would change its parent's:
# by shards, so that it costs the same however much there is.
_NOTHING: Shards = ({},) * SHARDS
_held: ContextVar[Shards] = ContextVar("machine_memory_held", default=_NOTHING)
_began: ContextVar[tuple[Shards, ...]] = ContextVar("machine_memory_began", default=())
HOSTS = [
    ("django.core.signals", "request_started", "request_finished"),
    ("django.tasks.signals", "task_started", "task_finished"),  # From Django 6.0 on.
    ("celery.signals", "task_prerun", "task_postrun"),
]
NESTED = 10
"""Requests and tasks within each other. Some hosts never say that one is over."""


def held(memory: Memory, id: str) -> Lease | None:
    """Return the lease that this context took of ``id`` and has not given back, be it live or lost."""
    key = (memory.store, id)
    lease = _held.get()[hash(key) % SHARDS].get(key)
    if lease is None or not lease._is_given_back:
        return lease
    if lease._is_settled:
        forget(lease)
    return None


def hold(*leases: Lease) -> None:
    shards = list(_held.get())
    for lease in leases:
        key = lease._key
        place = hash(key) % SHARDS
        shards[place] = shard = shards[place] | {key: lease}
        if len(shard) > OF_A_SHARD:
            # A block forgets its own when it ends.
            others = (one for one in shard.values() if one is not lease and (not one._shows_data or one._is_unwanted))
            if ends_first := min(others, key=lambda one: one._ends_at, default=None):
                del shard[ends_first._key]
    _held.set(tuple(shards))


def forget(*leases: Lease) -> None:
    shards, is_changed = list(_held.get()), False
    for lease in leases:
        key = lease._key
        place = hash(key) % SHARDS
        if shards[place].get(key) is lease:
            shards[place] = shard = shards[place].copy()
            del shard[key]
            is_changed = True
    if is_changed:
        _held.set(tuple(shards))


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


@contextmanager
def of_its_own() -> Iterator[None]:
    """Hold nothing at first, and forget at the end of the block what was taken within."""
    before = _held.get()
    _held.set(_NOTHING)
    try:
        yield
    finally:
        _held.set(before)


def connect() -> None:
    """Have the host tell where its requests and tasks begin and end: Django's, and Celery's where it is installed."""
    for module, beginning, ending in HOSTS:
        with suppress(ImportError):
            signals = import_module(module)
            getattr(signals, beginning).connect(begin)
            getattr(signals, ending).connect(end)


def _added(before: Shards, now: Shards) -> Iterator[Lease]:
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
