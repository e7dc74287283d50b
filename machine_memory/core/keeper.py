"""The keeper: one thread of this process that renews leases, and gives back those that nobody else can."""

import atexit
import logging
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from math import inf
from queue import Empty, SimpleQueue

from machine_memory.core.failures import LEASES
from machine_memory.core.lease import Lease, Memory
from machine_memory.core.store import Store
from machine_memory.exceptions import LockError, StoreError

logger = logging.getLogger(__name__)

BEATS = 3
"""In the time of a ttl."""
SOON = 4
"""As often within the time of a beat, what was passed over is tried again."""
LEAST, MOST = 0.005, 1.0
"""Seconds between two attempts to give a lease back."""
LINGER = 5.0
"""Seconds for which the thread waits for more once it has nothing to keep."""
IN_FLIGHT = 1.0
"""Seconds for which a server may go on with a lock that nobody waits for: see ``sql.LOCK_WAIT``."""
FORK_WAIT = 1.0
"""Seconds for which a process that is about to fork, and the keeper, wait for each other."""
FAREWELL = 2.0
"""Seconds that the end of the process waits for leases to be given back."""


class Keeper:
    """Renews at a third of each ttl until told otherwise; when that fails, the lease is lost.

    Whoever hands a lease over waits for no store: it may be an event loop, a signal handler or a finalizer.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[None] = SimpleQueue()
        self.begin_anew()
        os.register_at_fork(before=self._begin_fork, after_in_parent=self._end_fork, after_in_child=self.begin_anew)
        atexit.register(self._farewell)

    def begin_anew(self) -> None:
        """Know of nothing, as in a forked child: the leases are those of its parent, and so is the thread."""
        self._calls.put(None)  # The thread that waits, if there is one, sees that it is none of this keeper any more.
        self._kept: dict[Lease, float] = {}
        """When each is to be renewed."""
        self._returned: dict[Lease, tuple[float, float, float]] = {}
        """When each is to be tried again, how long to wait after that, and until when it may yet be granted."""
        self._calls = SimpleQueue()
        self._starting = threading.RLock()  # A signal handler may come here while its thread is here already.
        self._forking = threading.RLock()
        """Who forks has it, and the thread while it asks a store that minds that."""
        self._thread: threading.Thread | None = None
        self._wakes_at = inf

    def keep(self, lease: Lease) -> None:
        """Renew a lease until it is dropped. Raises ``RuntimeError`` where no thread can be started."""
        self._kept[lease] = beat = _next_beat(lease)
        self._call(beat)

    def note(self, lease: Lease) -> None:
        """Take note of a new ttl, or of an expiry that was extended."""
        if lease in self._kept:
            self._kept[lease] = beat = _next_beat(lease)
            self._call(beat)

    def drop(self, lease: Lease) -> None:
        self._kept.pop(lease, None)

    def dismiss(self, lease: Lease) -> None:
        """Drop a lease for good, whatever beat is under way."""
        lease._keep_alive = False
        self.drop(lease)

    def drop_all(self, stores: Collection[Store]) -> None:
        """Know nothing more of the leases of these stores, as those are gone."""
        for leases in (self._kept, self._returned):
            for lease in list(leases):
                if lease._memory.store in stores:
                    leases.pop(lease, None)

    def give_back(self, lease: Lease, *, may_come: bool = False) -> None:
        """Release a lease in the background, again and again until that is done or the lease has run out.

        ``may_come``: a server may still be about to grant it, as whoever asked did not wait for the answer.
        """
        self.dismiss(lease)
        self._returned[lease] = (0.0, LEAST, time.monotonic() + IN_FLIGHT if may_come else 0.0)
        try:
            self._call(0.0)
        except RuntimeError:
            logger.warning("no thread can be started to give a lease back: it ends by its ttl")

    def _call(self, beat: float) -> None:
        if sys.is_finalizing():  # To start a thread by then is to wait for ever, before Python 3.12.
            raise RuntimeError("can't start new thread")
        with self._starting:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="machine-memory-keeper", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError:
                    self._thread = None
                    raise
        if beat < self._wakes_at:
            self._calls.put(None)

    def _farewell(self) -> None:
        thread, self._kept = self._thread, {}
        if thread is not None and self._returned:
            self._calls.put(None)
            deadline = time.monotonic() + FAREWELL
            while self._returned and thread.is_alive() and time.monotonic() < deadline:
                thread.join(LEAST)

    def _begin_fork(self) -> None:
        self._forking.acquire(timeout=FORK_WAIT)

    def _end_fork(self) -> None:
        with suppress(RuntimeError):  # It was not to be had in time.
            self._forking.release()

    @contextmanager
    def _asking(self, memory: Memory) -> Iterator[None]:
        """Where a store minds forks, have none meanwhile, and leave no connection to a child."""
        if memory.store.forks:
            yield
            return
        forking = self._forking
        is_had = forking.acquire(timeout=FORK_WAIT)
        try:
            yield
        finally:
            memory.store.close()
            if is_had:
                forking.release()

    def _run(self) -> None:
        memories: set[Memory] = set()
        try:
            # Where a signal has come between its start and the end of that, another one has taken over.
            while self._thread is threading.current_thread():
                if self._kept or self._returned:
                    self._work(memories)
                else:
                    _close(memories)
                    self._wakes_at = inf
                    if self._is_left_alone():
                        return
        except BaseException as error:  # noqa: BLE001  # Whatever it is, nobody else could tell of it.
            self._give_up(error)
        finally:
            _close(memories)

    def _is_left_alone(self) -> bool:
        try:
            self._calls.get(timeout=LINGER)
        except Empty:
            with self._starting:
                if not self._kept and not self._returned:
                    self._thread = None
                    return True
        return False

    def _work(self, memories: set[Memory]) -> None:
        """Do what is due, with one step for all leases of a memory, and wait for what comes next."""
        now = time.monotonic()
        # What is due a little later goes with the others, so that from then on they go together.
        due = (lease for lease, at in list(self._kept.items()) if at - now <= lease.ttl / BEATS / 2)
        if any(at <= now for at in list(self._kept.values())):
            for memory, leases in _by_memory(due):
                memories.add(memory)
                with self._asking(memory):
                    self._renew(memory, leases)
        for memory, leases in _by_memory(lease for lease, (at, *_) in list(self._returned.items()) if at <= now):
            memories.add(memory)
            with self._asking(memory):
                self._return(memory, leases)
        self._wakes_at = inf  # Until it is known, whoever comes has to call.
        self._wakes_at = min(
            [*list(self._kept.values()), *(at for at, *_ in list(self._returned.values()))], default=0.0
        )
        self._wait(max(0.0, self._wakes_at - time.monotonic()))

    def _wait(self, seconds: float) -> None:
        with suppress(Empty):
            self._calls.get(timeout=seconds)

    def _renew(self, memory: Memory, leases: list[Lease]) -> None:
        asked_at, terms = memory.store.monotonic(), {lease: lease._term for lease in leases}
        reason: Exception | None = None
        try:
            with memory.steps("renew", LEASES, LockError) as step:
                step.outcome = "renewed"
                step.note(leases=len(leases))
                renewed, over = memory.store.renew_each([lease._ref for lease in leases])
        except Exception as error:
            if not isinstance(error, StoreError):  # The unforeseen, of which the leases of others are not to end.
                logger.exception("could not renew leases (%s)", type(error).__name__)
                memory.store.start_afresh()
            renewed, over, reason = set(), set(), error
        for lease in leases:
            if lease._token in renewed:
                lease._kept(terms[lease], asked_at)
            # One that its holder is giving back may be over by that.
            elif not lease._is_stepping and not lease._is_given_back and (lease._token in over or not lease.remaining):
                self._lose(lease, reason)
            if lease in self._kept:
                soon = time.monotonic() + lease.ttl / BEATS / SOON
                self._kept[lease] = _next_beat(lease) if lease._token in renewed else soon
            if not lease._keep_alive or (lease._is_given_back and lease._is_settled):
                self.drop(lease)  # A beat that met its end half way may have put it back.

    def _return(self, memory: Memory, leases: list[Lease]) -> None:
        asked = {lease: self._returned.get(lease) for lease in leases}
        try:
            with memory.steps("unlock", LEASES, LockError) as step:
                step.outcome = "released"
                step.note(leases=len(leases))
                done = memory.store.release_each([lease._ref for lease in leases])
        except StoreError:
            done = set()
        except BaseException as error:  # The others are still to be given back.
            logger.exception("could not give leases back (%s)", type(error).__name__)
            done = set()
            memory.store.start_afresh()
        now = time.monotonic()
        for lease in leases:
            entry = self._returned.pop(lease, None)
            if entry is None:
                continue  # The keeper has begun anew meanwhile, and knows nothing of it.
            _, wait, comes_until = entry
            if entry is not asked[lease]:
                self._returned.setdefault(lease, entry)  # It may have been granted only after the store was asked.
            elif lease.remaining and (lease._token not in done or now < comes_until):
                self._returned[lease] = (now + wait, min(2 * wait, MOST), comes_until)

    def _lose(self, lease: Lease, error: BaseException | None) -> None:
        self.drop(lease)
        cause = type(error.__cause__ or error).__name__ if error else "LockLost"
        lease._lost = f"could not be kept alive ({type(error).__name__ if error else cause})"
        # Of a failing store the kind is enough, and what its driver says may quote rows.
        logger.warning(
            "lost the lease of %s: it could not be kept alive (%s)", lease._memory.steps.logged(lease.id), cause
        )

    def _give_up(self, error: BaseException) -> None:
        """The unforeseen has happened: whoever relies on this thread is to know."""
        logger.exception("no lease is kept alive any more (%s)", type(error).__name__)
        with self._starting:
            self._thread = None
            for lease in list(self._kept):
                self._lose(lease, error)


def _next_beat(lease: Lease) -> float:
    return time.monotonic() + lease.remaining - lease.ttl * (1 - 1 / BEATS)


def _by_memory(leases: Iterable[Lease]) -> Iterable[tuple[Memory, list[Lease]]]:
    grouped: dict[Memory, list[Lease]] = defaultdict(list)
    for lease in leases:
        grouped[lease._memory].append(lease)
    return grouped.items()


def _close(memories: set[Memory]) -> None:
    while memories:
        memories.pop().store.close()


keeper = Keeper()
