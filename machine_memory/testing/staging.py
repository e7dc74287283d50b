"""What goes wrong, on purpose: with the memory of a test, in this process or in a store of any kind."""

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import Context
from typing import Any, Literal, ParamSpec, TypeVar
from unittest.mock import patch

from machine_memory import exceptions as errors
from machine_memory.core.memory import BaseMachineMemory, Seconds
from machine_memory.core.records import Change
from machine_memory.core.store import Store
from machine_memory.core.store import reply_lost as lost_reply
from machine_memory.core.validation import quoted
from machine_memory.exceptions import LockDenied

P = ParamSpec("P")
T = TypeVar("T")
Memory = BaseMachineMemory[Any, Any, Any]
Kind = Literal["reads", "writes", "locks"]

WRITES = ("write", "write_each", "remove")
STEPS: dict[Kind, tuple[type[errors.StoreError], tuple[str, ...]]] = {
    "reads": (errors.ReadError, ("read", "record", "holder", "held_locks", "find", "children", "tree")),
    "writes": (errors.WriteError, (*WRITES, "purge_machines")),
    "locks": (
        errors.LockError,
        (
            *("acquire", "acquire_each", "claim", "resume", "renew", "renew_each", "release", "release_each"),
            *("force_release", "purge_locks"),
        ),
    ),
}
"""The steps of a store, and how each kind of them fails."""


class Crash(BaseException):
    """The process is gone, as far as the code under test is concerned: not to be caught by it."""


class Somebody:
    """Another worker: what is called through it holds none of the test's leases, nor the test any of its.

    ``somebody(memory.lock, "order-42")``
    """

    def __init__(self) -> None:
        self._context = Context()

    def __call__(self, verb: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return self._context.run(verb, *args, **kwargs)


@contextmanager
def held_by_another(memory: Memory, id: str, *, ttl: Seconds | None = None) -> Iterator[Somebody]:
    """Have somebody else hold a machine, and do nothing, until the block ends.

    Raises ``LockDenied`` where it is held already.
    """
    somebody = Somebody()
    if not somebody(memory.lock, id, ttl=ttl):
        raise LockDenied(f"{quoted(id)} is held already: nobody else can be given it.")
    try:
        yield somebody
    finally:
        somebody(memory.unlock, id)


def taken_over(memory: Memory, id: str) -> Somebody:
    """End the lease of a machine, and have somebody else take one: whoever had it is a zombie now."""
    if memory.holder(id) is None:
        raise LockDenied(f"Nobody holds {quoted(id)}: there is no lease to take over. Lock it first.")
    memory.force_unlock(id)
    somebody = Somebody()
    somebody(memory.lock, id)
    return somebody


@contextmanager
def denied(memory: Memory, *ids: str) -> Iterator[None]:
    """Have each lock denied, or those of these machines, as if somebody were always a little faster."""
    store = memory.store
    acquire, acquire_each = store.acquire, store.acquire_each

    def denying(id: str, **how: Any) -> Any:
        return None if not ids or id in ids else acquire(id, **how)

    def denying_each(asked: Any, **how: Any) -> Any:
        left = {token: id for token, id in asked.items() if ids and id not in ids}
        return acquire_each(left, **how) if left else {}

    with _replaced(store, {"acquire": denying, "acquire_each": denying_each, "claim": lambda *args: []}):
        yield


@contextmanager
def failing(memory: Memory, *kinds: Kind) -> Iterator[None]:
    """Have the store fail: its ``"reads"``, ``"writes"`` and ``"locks"``, or those of them that are named.

    What is called raises ``ReadError``, ``WriteError`` or ``LockError``, and ``unlock`` returns ``False``.
    """
    steps: dict[str, Any] = {}
    for kind in kinds or STEPS:
        error, names = STEPS[kind]
        steps |= {name: _raising(error, f"The store failed, as staged: {name} is one of its {kind}.") for name in names}
    with _replaced(memory.store, steps):
        yield


@contextmanager
def reply_lost(memory: Memory, *, applied: bool) -> Iterator[None]:
    """Have the reply to the next write be lost, once it was ``applied``, or before: it raises ``UnknownOutcome``."""
    pending, applying = [True], _applying(memory.store)

    def losing(name: str) -> Callable[..., Any]:
        step = getattr(memory.store, name)

        def write(what: Any, **how: Any) -> Any:
            if not pending:
                return step(what, **how)
            pending.clear()
            if applied:
                applying[name](what, **how)
            raise lost_reply("write", _id_of(what)) from ConnectionError("staged")

        return write

    with _replaced(memory.store, {name: losing(name) for name in WRITES}):
        yield
    _check_reached(not pending, "a reply was to be lost")


@contextmanager
def crash(memory: Memory, *, applied: bool = False) -> Iterator[None]:
    """Have the process of a worker, which the block is, die at its first write: before, or once it was ``applied``.

    The block ends there, and nothing that it goes on to do reaches the store: its lease is left behind.
    """
    dying = _Dying(memory.store, applied=applied)
    with _replaced(memory.store, dying.steps()):
        try:
            yield
        except Crash:
            return
    _check_reached(dying.is_dead, "a crash was to happen")


class _Dying:
    """The steps of a process that dies at its first write; nobody hears of what it asks for later."""

    def __init__(self, store: Store, *, applied: bool) -> None:
        self._store, self._applied = store, applied
        self.is_dead = False

    def steps(self) -> dict[str, Any]:
        steps = {name: self._step(name) for _, names in STEPS.values() for name in names}
        # A process that is gone mends no connection, either, nor gives up the transaction of a TestCase for it.
        steps["start_afresh"] = self._unheard("start_afresh", lambda: None)
        steps["release"] = self._unheard("release", lambda id: True)
        steps["release_each"] = self._unheard("release_each", lambda leases: {token for _, token, _ in leases})
        return steps

    def _step(self, name: str) -> Callable[..., Any]:
        step, last = getattr(self._store, name), _applying(self._store).get(name)

        def take(*args: Any, **how: Any) -> Any:
            if not self.is_dead and last is None:
                return step(*args, **how)
            if not self.is_dead and self._applied and last is not None:
                last(*args, **how)
            self.is_dead = True
            raise Crash("the process of this worker is gone, as staged")

        return take

    def _unheard(self, name: str, reply: Callable[..., Any]) -> Callable[..., Any]:
        step = getattr(self._store, name)
        return lambda *args, **how: reply(*args) if self.is_dead else step(*args, **how)


def _applying(store: Store) -> dict[str, Callable[..., Any]]:
    """Return what carries out each kind of write, as far as it goes."""
    write, write_each = store.write, store.write_each

    def write_all(changes: Collection[Change]) -> None:
        done = write_each(changes)
        for change in changes:
            if change.id not in done:
                with suppress(errors.MachineMemoryError):  # Nobody hears of a refusal.
                    write(change)

    return {"write": write, "write_each": write_all, "remove": store.remove}


def _id_of(what: Any) -> str:
    """Return the id of what a step writes: a change, the first of several, or the id of what it removes."""
    if isinstance(what, str):
        return what
    return str(what.id if hasattr(what, "id") else next(iter(what)).id)


def _raising(error: type[errors.StoreError], message: str) -> Callable[..., Any]:
    def fail(*args: Any, **how: Any) -> Any:
        raise error(message) from ConnectionError("staged")

    return fail


def _check_reached(is_reached: bool, staged: str) -> None:
    if not is_reached:
        raise AssertionError(f"Nothing was written within the block, where {staged}.")


@contextmanager
def _replaced(store: Store, steps: dict[str, Any]) -> Iterator[None]:
    with ExitStack() as stack:
        for name, step in steps.items():
            stack.enter_context(patch.object(store, name, step))
        yield
