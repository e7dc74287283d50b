"""Processes that are forked in the block of a lease, and what they can do to it."""

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Collection
from typing import Any

from django.db import connections, transaction

from machine_memory import BaseMachineMemory, Lease, MachineMemoryError, SimpleMachineMemory
from machine_memory.core.records import LeaseRef
from tests.contract.stores import Store, named

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
    locked = memory.lock(id)
    memory.write(id, {"by": "parent"})
    before = store.lease_of(id)
    connections.close_all()
    report = _of_a_child(
        lambda: {
            "write": outcome(memory.write, id, {"by": "child"}),
            "cleanup": outcome(memory.cleanup, id),
            "unlock": outcome(memory.unlock, id),
        }
    )
    report["parent"] = {
        "locked": locked,
        "same lease": store.lease_of(id) == before,
        "write": outcome(memory.write, id, {"by": "parent", "again": True}),
        "unlock": outcome(memory.unlock, id),
        "state": memory.read(id),
    }
    return report


def amid_a_beat(name: str, id: str) -> dict[str, Any]:
    """Fork while what keeps a lease alive has the store to itself."""
    store = named(name)
    memory, alias = store.memory, store.alias
    is_asking, may_go_on = threading.Event(), threading.Event()
    renew_each = memory.store.renew_each

    def renew_slowly(leases: Collection[LeaseRef]) -> tuple[set[str], set[str]]:
        with transaction.atomic(using=alias):
            renewed = renew_each(leases)
            is_asking.set()
            may_go_on.wait(PATIENCE)
        return renewed

    with memory.lease(id, ttl=TTL, keep_alive=True):
        connections.close_all()
        memory.store.renew_each = renew_slowly  # type: ignore[method-assign]
        is_asking.wait(PATIENCE)
        threading.Timer(TTL / 6, may_go_on.set).start()
        return _of_a_child(
            lambda: {
                "open files of the database": _open_files(connections[alias].settings_dict["NAME"]),
                "lock": outcome(memory.lock, f"another {id}"),
                "unlock": outcome(memory.unlock, f"another {id}"),
            }
        )


def amid_a_step(name: str, id: str) -> dict[str, Any]:
    """Fork while another thread is within a step of the memory in this process."""
    memory = SimpleMachineMemory()
    within, may_go_on = threading.Event(), threading.Event()

    def step() -> None:
        with memory.store._mutex:  # type: ignore[attr-defined]
            within.set()
            may_go_on.wait(PATIENCE)

    thread = threading.Thread(target=step)
    thread.start()
    within.wait(PATIENCE)
    report = _of_a_child(lambda: {"lock": memory.lock(id)})
    may_go_on.set()
    thread.join()
    return report


def outcome(call: Callable[..., Any], *args: Any) -> Any:
    """Return what a call returned, or the name of what it raised."""
    try:
        return call(*args)
    except MachineMemoryError as error:
        return type(error).__name__


def _of_a_child(report: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Fork a child that does no more than that, and return what it reports."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            signal.alarm(PATIENCE)
            os.write(writing, json.dumps(report()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    received = _received(reading)
    os.waitpid(child, 0)
    return received


def _open_files(path: str) -> int:
    """Return how many descriptors of a file this process has."""
    file = os.stat(path)

    def is_it(descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), file)
        except OSError:
            return False

    return sum(map(is_it, range(1024)))


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
