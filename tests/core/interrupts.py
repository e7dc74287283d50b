"""Calls that a signal interrupts at any instant, and what they leave behind."""

import gc
import os
import signal
import stat
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any, TypeVar

from django.db import connections

from machine_memory import BaseMachineMemory
from tests.contract.stores import ServerStore, Store, named

T = TypeVar("T")

DELAY = 0.002
"""Seconds by which each answer is late."""
MOMENT = 2.0
"""Seconds within which whoever gives a lease back in the background has done so."""
ENOUGH = 5
"""As many leases that stayed tell enough: nobody waits for the others."""


class Interrupt(Exception):
    """As the soft time limit of a task is."""


class Halt(BaseException):
    """As Ctrl-C is."""


@dataclass
class Figures:
    """What became of interrupted calls."""

    calls: int = 0
    interrupted: int = 0
    left: dict[str, int] = field(default_factory=dict)
    """Leases that nobody holds, by what was under way when the signal came."""
    failed: list[str] = field(default_factory=list)
    """Calls that failed though no signal came."""
    wrong: list[str] = field(default_factory=list)
    """Answers that were not those to the question."""
    slowest: float = 0.0
    """Seconds that the call after an interrupted one took at most."""
    threads: int = 0
    """That are there in the end and were not at the beginning."""
    sockets: int = 0


def instants(span: float) -> Iterator[float]:
    """Yield instants that are spread over a span evenly, however many are taken."""
    return ((number * 0.618_033_988_7) % 1 * span + 1e-6 for number in count(1))


def interrupted(call: Callable[[], object], after: float, kind: type[BaseException]) -> bool:
    """Call, let a signal handler raise meanwhile, and return whether it did; what the call raises is raised else."""
    is_armed, has_raised = True, False

    def handle(*args: object) -> None:
        nonlocal has_raised
        if is_armed:
            has_raised = True
            raise kind

    signal.signal(signal.SIGALRM, handle)
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, after)
            call()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            is_armed = False
    except BaseException:
        if not has_raised:
            raise
    return has_raised


def sockets() -> int:
    """Return how many this process has open."""

    def is_socket(descriptor: int) -> bool:
        try:
            return stat.S_ISSOCK(os.fstat(descriptor).st_mode)
        except OSError:
            return False

    return sum(map(is_socket, range(1024)))


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


class Observer:
    """Looks at a store from another thread, on a connection of its own."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._memory = store.memory if store.name == "simple" else store.new_memory()
        self._thread = ThreadPoolExecutor(1)
        self._left = 0

    def __enter__(self) -> "Observer":
        return self

    def __exit__(self, *error: object) -> None:
        self._ask(connections.close_all)
        self._thread.shutdown()

    def read(self, id: str) -> Any:
        return self._ask(self._memory.read, id)

    def locks(self) -> list[str]:
        return self._ask(lambda: [info.id for info in self._memory.held_locks()])

    def is_left(self, id: str) -> bool:
        """Return whether a lease stays, and end it."""
        deadline = time.monotonic() + (MOMENT if self._left < ENOUGH else 0)
        while self._ask(self._store.lease_of, id):
            if time.monotonic() > deadline:
                self._ask(self._memory.force_unlock, id)
                self._left += 1
                return True
            time.sleep(0.001)
        return False

    def _ask(self, call: Callable[..., T], *args: Any) -> T:
        return self._thread.submit(call, *args).result()


class Cycle:
    """One use of a machine, in each way that there is."""

    def __init__(self, memory: BaseMachineMemory) -> None:
        self._memory = memory
        self.stage = ""

    def commit(self, id: str, n: int, *, keep_alive: bool = False) -> None:
        self.stage = "taking"
        with self._memory.lease(id, keep_alive=keep_alive) as lease:
            self.stage = "working"
            lease.write({"n": n})
            lease.commit({"n": n + 1})
            self.stage = "leaving"

    def write(self, id: str, n: int, *, keep_alive: bool = False) -> None:
        self.stage = "taking"
        with self._memory.lease(id, keep_alive=keep_alive) as lease:
            self.stage = "working"
            lease.write({"n": n})
            self.stage = "leaving"

    def commit_kept_alive(self, id: str, n: int) -> None:
        self.commit(id, n, keep_alive=True)

    def write_kept_alive(self, id: str, n: int) -> None:
        self.write(id, n, keep_alive=True)

    def batch(self, id: str, n: int) -> None:
        self.stage = "taking"
        with self._memory.leases([id, "another"]) as batch:
            self.stage = "working"
            batch.write({id: {"n": n}})
            batch.commit({lease.id: {"n": n + 1} for lease in batch})
            self.stage = "leaving"

    def verbs(self, id: str, n: int) -> None:
        self.stage = "taking"
        try:
            if not self._memory.lock(id):
                raise RuntimeError("somebody has it")
            self.stage = "working"
            self._memory.write(id, {"n": n})
            self.stage = "leaving"
        finally:
            self._memory.unlock(id)


@contextmanager
def settled(figures: Figures) -> Iterator[None]:
    """Note what there is more at the end than at the beginning; one thread and its connection may linger."""
    threads, open_sockets = threading.active_count(), sockets()
    yield
    gc.collect()
    deadline = time.monotonic() + MOMENT
    while time.monotonic() < deadline:
        figures.threads, figures.sockets = threading.active_count() - threads, sockets() - open_sockets
        if max(figures.threads, figures.sockets) <= 0:
            break
        time.sleep(0.01)


def cycles(name: str, times: int) -> Figures:
    """Interrupt cycles of a machine: whatever happens, no lease stays, and the next call is as ever."""
    store, figures = named(name), Figures()
    memory, cycle = store.memory, Cycle(store.memory)
    ways = [cycle.commit, cycle.write, cycle.verbs, cycle.commit_kept_alive, cycle.write_kept_alive, cycle.batch]
    with Observer(store) as observer:
        spans = [statistics.median(seconds(partial(way, "warm up", 0)) for _ in range(20)) for way in ways]
        moments = [instants(1.1 * span) for span in spans]
        observer.is_left("warm up")
        observer.read("warm up")
        known: dict[str, Any] = {}
        with settled(figures):
            for number in range(times):
                way, moment = ways[number % len(ways)], moments[number % len(ways)]
                id, kind = f"machine {number % 7}", Halt if number % 3 == 0 else Interrupt
                figures.calls += 1
                try:
                    figures.interrupted += interrupted(partial(way, id, 2 * number), next(moment), kind)
                except BaseException as failure:  # noqa: BLE001  # Whatever it is, it is to be reported.
                    figures.failed.append(f"{way.__name__}: {failure!r}")
                if observer.is_left(id):
                    figures.left[cycle.stage] = figures.left.get(cycle.stage, 0) + 1
                stored = observer.read(id)
                if stored not in (known.get(id), {"n": 2 * number}, {"n": 2 * number + 1}):
                    figures.wrong.append(f"stored: {stored}")
                known[id] = stored
                _ask(figures, memory, id, stored)
        figures.failed += [f"held in the end: {id}" for id in observer.locks()]
    memory.store.close()
    return figures


def reads(name: str, times: int) -> Figures:
    """Interrupt reads from a server whose answers are late: nobody gets the answer to another question."""
    store, figures = named(name), Figures()
    assert isinstance(store, ServerStore)
    states = {f"machine {number}": {"of": number} for number in range(8)}
    for id, state in states.items():
        store.memory.write(id, state)
    with store.through_proxy() as (memory, proxy):
        proxy.delay = DELAY
        moments = instants(1.1 * statistics.median(seconds(lambda: memory.read("machine 0")) for _ in range(20)))
        for number in range(times):
            id, other = f"machine {number % 8}", f"machine {(number + 3) % 8}"
            kind = Halt if number % 3 == 0 else Interrupt
            figures.calls += 1
            figures.interrupted += interrupted(partial(_ask, figures, memory, id, states[id]), next(moments), kind)
            _ask(figures, memory, other, states[other])
    return figures


def _ask(figures: Figures, memory: BaseMachineMemory, id: str, expected: Any) -> None:
    started = time.perf_counter()
    try:
        answer = memory.read(id)
    except (Interrupt, Halt):
        raise
    except Exception as failure:  # noqa: BLE001  # As above.
        figures.failed.append(f"read: {failure!r} from {failure.__cause__!r}")
    else:
        if answer != expected:
            figures.wrong.append(f"{answer} in place of {expected}")
    figures.slowest = max(figures.slowest, time.perf_counter() - started)
