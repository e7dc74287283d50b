"""The life of a lease: how it is taken, renewed and given back, whatever the way out."""

import logging
from collections.abc import Callable, Iterator
from contextlib import AsyncContextDecorator, ContextDecorator, contextmanager, suppress
from datetime import timedelta
from typing import Any, Generic, Self

import tenacity

from machine_memory import exceptions as errors
from machine_memory.core import validation
from machine_memory.core.contexts import describe_owner, forget, held, hold
from machine_memory.core.failures import Step, is_taken_here
from machine_memory.core.keeper import keeper
from machine_memory.core.lease import Lease, Memory
from machine_memory.core.records import EncodedData, Grant, Shown, Written
from machine_memory.core.store import Contended, UnknownGrant, lock_lost
from machine_memory.core.validation import quoted

logger = logging.getLogger("machine_memory")


def take(lease: Lease, attempt: Callable[[Lease], bool] | None = None) -> bool:
    """Lock, and return whether that was granted. Whatever is raised, no lease is left behind."""
    try:
        if lease._is_unwanted or not (attempt or _attempt)(lease):
            return False
        lease.data  # noqa: B018  # Nobody is to hold what cannot be read.
        if not lease._is_unwanted:
            return True
    except UnknownGrant:
        keeper.give_back(lease, may_come=True)
        raise
    except BaseException as failure:
        if lease._granted_at is not None:
            _give_back(lease)
        elif not isinstance(failure, errors.MachineMemoryError):
            _give_back(lease)
            keeper.give_back(lease, may_come=True)
        raise
    _give_back(lease)
    return False


def _attempt(lease: Lease) -> bool:
    id, ttl, asked_at = lease.id, lease.ttl, lease._memory.store.monotonic()
    with lease._memory.steps("lock", id, errors.LockError) as step:
        grant = _asked(lease, step)
        if grant is not None:
            lease._grant(grant, asked_at)
            if grant.evicted is not None:
                name = lease._memory.steps.logged(id)
                logger.warning("took over %s from a lease that expired (fence %d)", name, grant.fence)
        step.locked(grant, ttl)
    if grant is None:
        return False
    if not lease.remaining:
        raise errors.LockError(f"The store took longer to lock {quoted(id)} than the ttl of {ttl:g} s.")
    return True


def _asked(lease: Lease, step: Step) -> Grant | None:
    store, id, token, lease._contended = lease._memory.store, lease.id, lease._token, None
    grant = None
    try:
        grant = store.acquire(id, token=token, owner=lease.owner, ttl=lease.ttl, trace=step.trace())
    except Contended as reason:
        lease._contended = str(reason)
    except UnknownGrant as lost:
        with suppress(*store.failures):  # The store is down, as the caller is about to be told.
            grant = store.granted(id, token=token) if lost.may_ask else None
        if grant is None:
            raise
    if grant is None and step.is_recorded:
        with suppress(*store.failures):  # The lock is denied, whether or not it can be told who has it.
            step.link(store.holder_trace(id))
    return grant


def _give_back(lease: Lease) -> None:
    """End what an exception left behind, without a span: of that, too, the exception may be."""
    memory = lease._memory
    try:
        _release_surely(memory, lease.id, lease._token)
        end(lease, "was given back")
    except memory.store.failures as failure:
        _log_unreleased(memory, lease.id, failure)
    except BaseException:
        keeper.give_back(lease)
        raise


def _release_surely(memory: Memory, id: str, token: str | None) -> bool:
    """Release; where the store fails, once more on a fresh connection."""
    store = memory.store
    try:
        return store.release(id, token=token)
    except store.failures:
        if token is None or store.in_transaction():
            raise
    except BaseException:
        store.start_afresh()
        raise
    store.start_afresh()
    return store.release(id, token=token)


def renew(lease: Lease, ttl: float | timedelta | None) -> None:
    seconds, asked_at = lease.ttl if ttl is None else validation.ttl(ttl), lease._memory.store.monotonic()
    with lease._memory.steps("renew", lease.id, errors.LockError, "renew the lease of") as step:
        lease._check()
        if not lease._memory.store.renew(lease.id, token=lease._token, ttl=seconds):
            raise lock_lost(lease.id)
        step.outcome = "renewed"
        step.note(ttl=seconds, fence=lease.fence)
    lease._renewed(seconds, asked_at)
    keeper.note(lease)


def unlock(memory: Memory, id: str, lease: Lease | None) -> bool:
    """Give the lease back, if there is one, and return whether nobody has one now."""
    if lease is not None and (lease._is_detached or not lease._is_own):
        forget(lease)
        lease = None
    try:
        if is_taken_here():
            if lease is not None:
                keeper.give_back(lease)
            return False
        with ending(lease), memory.steps("unlock", id, errors.LockError) as step:
            free = _release_surely(memory, id, None if lease is None else lease._token)
            step.outcome = "released" if free else "not_held"
            if lease is not None:
                end(lease, "was released")
    except errors.StoreError as error:
        _log_unreleased(memory, id, error.__cause__ or error)
        return False
    except BaseException:
        if lease is not None:
            abandon(lease)
        raise
    return free


def release(lease: Lease) -> bool:
    return unlock(lease._memory, lease.id, lease)


async def arelease(lease: Lease) -> bool:
    try:
        return await lease._memory.steps.hop(release, lease)
    except BaseException:
        abandon(lease)
        raise


def leave(lease: Lease) -> None:
    """End the lease of a block, whatever has become of it."""
    keeper.dismiss(lease)
    if lease._granted_at is not None and not lease._is_given_back and lease._is_own:
        release(lease)
    if not lease._is_settled:
        abandon(lease)  # A rollback would leave it behind.
    forget(lease)


def wrote(lease: Lease, text: EncodedData, version: int, asked_at: float, *, release: bool) -> None:
    """Take note of what was written under it."""
    was_lost = lease._lost is not None
    lease._wrote(text, version, asked_at, "was committed" if release else None)
    if release:
        if lease._is_settled:
            keeper.drop(lease)  # Its block forgets it.
    elif was_lost and lease._keep_alive:
        keeper.keep(lease)  # It is live all the same.
    else:
        keeper.note(lease)


def end(lease: Lease, reason: str) -> None:
    """Take note that its holder gave it back."""
    lease._end(reason)
    if lease._is_settled:
        keeper.drop(lease)
        forget(lease)


def abandon(lease: Lease) -> None:
    """Have it given back in the background, as whoever would do so is going. Twice does no harm."""
    lease._is_unwanted = True
    if lease._granted_at is not None and lease._is_own and not (lease._is_given_back and lease._is_settled):
        keeper.give_back(lease)


@contextmanager
def ending(*leases: Lease | None) -> Iterator[None]:
    """Tell the keeper that leases may end meanwhile, and not be lost by that."""
    stepping = [lease for lease in leases if lease is not None]
    for lease in stepping:
        lease._is_stepping = True
    try:
        yield
    finally:
        for lease in stepping:
            lease._is_stepping = False


def _denied(lease: Lease) -> errors.LockDenied:
    own = held(lease._memory, lease.id)
    if own is not None and own._is_live():
        return errors.LockDenied(
            f"This context holds {quoted(lease.id)} already, for {own.remaining:.3g} s more: a lock is not"
            " re-entrant. Go on with the lease that it has."
        )
    reason = lease._contended or f"Somebody else holds {quoted(lease.id)}."
    return errors.LockDenied(f"{reason} Try again later, or wait longer for it.")


def _log_unreleased(memory: Memory, id: str, failure: BaseException) -> None:
    logger.warning(
        "could not unlock %s, its lease ends by the ttl: %s", memory.steps.logged(id), type(failure).__name__
    )


class _Block:
    """What is alike of the two blocks. It may be entered more than once, as a decorator is, but not at once."""

    _lease: Lease | None = None

    def __init__(
        self,
        memory: Memory,
        id: str,
        ttl: float,
        patience: dict[str, Any],
        *,
        keep_alive: bool,
        token: str | None = None,
        attempt: Callable[[Lease], bool] = take,
    ) -> None:
        self._memory, self._id, self._ttl = memory, id, ttl
        self._patience, self._keep_alive = patience, keep_alive
        self._token, self._attempt = token, attempt

    def __del__(self) -> None:
        # What an exception kept even the first line of the exit from giving back.
        if self._lease is not None:
            abandon(self._lease)

    def _recreate_cm(self) -> Self:
        options: dict[str, Any] = {"keep_alive": self._keep_alive, "token": self._token, "attempt": self._attempt}
        return type(self)(self._memory._by_now(), self._id, self._ttl, self._patience, **options)

    def _new_lease(self) -> Lease:
        options: dict[str, Any] = {"keep_alive": self._keep_alive, "token": self._token}
        self._lease = Lease(self._memory, self._id, self._ttl, describe_owner(), **options)
        return self._lease

    def _entered(self, lease: Lease, *, taken: bool) -> Lease:
        if not taken:
            raise _denied(lease)
        hold(lease)
        if self._keep_alive:
            keeper.keep(lease)
        return lease


class LeaseBlock(_Block, ContextDecorator, Generic[Written, Shown]):
    """Holds a lease from its beginning to its end."""

    def __enter__(self) -> Lease[Written, Shown]:
        try:
            lease, attempt = self._new_lease(), self._attempt
            if self._patience:
                attempt = tenacity.Retrying(**self._patience).wraps(attempt)
            return self._entered(lease, taken=attempt(lease))
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *error: object) -> None:
        lease = self._lease
        try:
            if lease is not None:
                leave(lease)
        except BaseException:
            if lease is not None:
                abandon(lease)
            raise
        self._lease = None


class AsyncLeaseBlock(_Block, AsyncContextDecorator, Generic[Written, Shown]):
    """The same, for a task: what waits for the store does so in a thread."""

    async def __aenter__(self) -> Lease[Written, Shown]:
        try:
            lease, attempt = self._new_lease(), self._take
            if self._patience:
                attempt = tenacity.AsyncRetrying(**self._patience).wraps(attempt)
            taken = await attempt(lease)
            try:
                return self._entered(lease, taken=taken)
            except RuntimeError:  # There is no thread to keep it alive, nor to give it back.
                await self.__aexit__()
                raise
        except BaseException:
            self._abandon()
            raise

    async def _take(self, lease: Lease) -> bool:
        return await self._memory.steps.hop(self._attempt, lease)

    async def __aexit__(self, *error: object) -> None:
        lease = self._lease
        if lease is None:
            return
        try:
            await self._memory.steps.hop(leave, lease)
        except BaseException:
            self._abandon()
            raise
        finally:
            forget(lease)
        self._lease = None

    def _abandon(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            keeper.dismiss(lease)
            forget(lease)
            abandon(lease)
