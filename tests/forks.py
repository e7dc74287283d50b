"""Processes that are forked in the block of a lease, and what they can do to it."""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from django.db import connections

from machine_memory import BaseMachineMemory, Lease, MachineMemoryError
from tests.stores import Store, named

TTL = 0.6
PATIENCE = 20
"""Seconds after which a child that hangs is killed."""


def by_system_call(name: str, id: str) -> dict[str, Any]:
    """Fork a child that goes on in the block, and leaves it as its parent does."""
    store, report, child = named(name), {}, -1
    reading, writing = os.pipe()
    try:
        with store.memory.lease(id, ttl=TTL, keep_alive=True) as lease:
            before = _prepared(store, lease)
            time.sleep(TTL / 2)  # What keeps it alive has been at work by now.
            child = os.fork()
            if child:
                os.close(writing)
                report = _received(reading)
                os.waitpid(child, 0)
                time.sleep(TTL)
                report["parent"] = _parent(store, lease, before)
            else:
                report = _child(store.memory, lease)
        if not child:
            report["left"] = True
    finally:
        if not child:
            os.write(writing, json.dumps(report).encode())
            os._exit(0)
    return report


def by_multiprocessing(name: str, id: str) -> dict[str, Any]:
    """Start a process in the block, as the standard library does by default on Linux before Python 3.14."""
    store = named(name)
    reading, writing = os.pipe()
    with store.memory.lease(id) as lease:
        before = _prepared(store, lease)

        def work() -> None:
            report = _child(store.memory, lease)
            os.write(writing, json.dumps(report | {"left": True}).encode())

        child = multiprocessing.get_context("fork").Process(target=work)
        child.start()
        os.close(writing)
        report = _received(reading)
        child.join()
        report["parent"] = _parent(store, lease, before)
    return report


def verbs(name: str, id: str) -> dict[str, Any]:
    """Fork a child between ``lock`` and ``unlock``."""
    store = named(name)
    memory = store.memory
    reading, writing = os.pipe()
    locked = memory.lock(id)
    memory.write(id, {"by": "parent"})
    before = store.lease_of(id)
    connections.close_all()
    child = os.fork()
    if not child:
        try:
            signal.alarm(PATIENCE)
            report = {
                "write": outcome(memory.write, id, {"by": "child"}),
                "cleanup": outcome(memory.cleanup, id),
                "unlock": outcome(memory.unlock, id),
            }
            os.write(writing, json.dumps(report).encode())
        finally:
            os._exit(0)
    os.close(writing)
    report = _received(reading)
    os.waitpid(child, 0)
    report["parent"] = {
        "locked": locked,
        "same lease": store.lease_of(id) == before,
        "write": outcome(memory.write, id, {"by": "parent", "again": True}),
        "unlock": outcome(memory.unlock, id),
        "state": memory.read(id),
    }
    return report


def outcome(call: Callable[..., Any], *args: Any) -> Any:
    """Return what a call returned, or the name of what it raised."""
    try:
        return call(*args)
    except MachineMemoryError as error:
        return type(error).__name__


def _prepared(store: Store, lease: Lease) -> str:
    lease.write({"by": "parent"})
    stored = store.lease_of(lease.id)
    assert stored
    connections.close_all()  # As whoever forks has to: two processes cannot share one.
    return stored[0]


def _child(memory: BaseMachineMemory, lease: Lease) -> dict[str, Any]:
    signal.alarm(PATIENCE)
    return {
        "lease.write": outcome(lease.write, {"by": "child"}),
        "lease.commit": outcome(lease.commit, {"by": "child"}),
        "lease.renew": outcome(lease.renew),
        "write": outcome(memory.write, lease.id, {"by": "child"}),
        "cleanup": outcome(memory.cleanup, lease.id),
        "lock": outcome(memory.lock, lease.id),
        "unlock": outcome(memory.unlock, lease.id),
        "lease.release": outcome(lease.release),
    }


def _parent(store: Store, lease: Lease, before: str) -> dict[str, Any]:
    stored = store.lease_of(lease.id)
    return {
        "same lease": bool(stored and stored[0] == before),
        "commit": outcome(lease.commit, {"by": "parent", "done": True}),
        "state": store.memory.read(lease.id),
    }


def _received(reading: int) -> dict[str, Any]:
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    return dict(json.loads(text)) if text else {"child": "ended without a word"}
