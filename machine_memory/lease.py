"""The lease: what a successful lock grants, from the instant its token exists until it is given back."""

import os
import secrets
import time
from collections.abc import Hashable
from contextlib import AsyncContextDecorator, ContextDecorator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

import tenacity

from machine_memory import telemetry
from machine_memory.contexts import describe_owner, forget, hold
from machine_memory.encoding import decode
from machine_memory.exceptions import LockLost
from machine_memory.keeper import keeper
from machine_memory.records import EncodedData, Grant, Joined, Metadata
from machine_memory.validation import quoted

if TYPE_CHECKING:
    from machine_memory.backends.steps import MemorySteps


@dataclass(slots=True)  # Never changed; to have that checked would cost more than all the rest.
class _Standing:
    """What a rollback of the caller's transaction takes back."""

    text: EncodedData | None = None
    version: int = 0
    over: str | None = None
    """How the holder gave the lease back."""
    promised: float = 0.0
    """Until when a write has extended it, as ``_Term.ends_at``."""


@dataclass(slots=True)
class _Term:
    ttl: float
    ends_at: float
    """By the monotonic clock of this process, counted from before the store was asked."""


_Undo = tuple[tuple[Joined, _Standing], ...]
"""What to go back to, should a transaction of the caller's that a step has joined be rolled back; the latest last."""


class Lease:
    """A live lease of a machine. Whoever has the object is the holder, in whatever thread or task of this process."""

    def __init__(
        self, memory: "MemorySteps", id: str, ttl: float, *, keep_alive: bool = False, shows_data: bool = True
    ) -> None:
        self.id = id
        self.owner = describe_owner()
        self.fence = 0
        self._memory = memory
        self._token = secrets.token_hex(16)
        self._process = os.getpid()
        # Each is replaced as a whole: a signal, or the thread that keeps it alive, finds the one or the other.
        self._state: tuple[_Standing, _Undo] = (_Standing(), ())
        self._term = _Term(ttl, time.monotonic() + ttl)
        self._decoded: tuple[EncodedData | None, Any] = (None, None)
        self._granted_at: float | None = None
        self._lost: str | None = None
        self._keep_alive = keep_alive
        self._shows_data = shows_data
        """Whether anybody has the object: what nobody can ask for is not kept."""
        self._is_stepping = False
        """Whether a step that may end it is on its way to the store."""
        self._contended: str | None = None
        """What stood in the way of the latest attempt, where that was no lease."""
        self._is_unwanted = False
        """Whether nobody waits for it any more: a grant that is still to come has to be given back."""

    def __repr__(self) -> str:
        return f"<Lease of {quoted(self.id)}, fence {self.fence}, {self.remaining:.3f} s left>"

    @property
    def data(self) -> Any:
        """The state as this lease last saw it; ``None``: no state yet. It is yours to change."""
        text = self._standing.text
        if self._decoded[0] is not text:
            self._decoded = (text, decode(text))
        return self._decoded[1]

    @property
    def version(self) -> int:
        """The version of ``data``; 0: no state yet."""
        return self._standing.version

    @property
    def ttl(self) -> float:
        return self._term.ttl

    @property
    def remaining(self) -> float:
        """Seconds left, counted from before the store was asked: never more than it would say."""
        return max(0.0, max(self._term.ends_at, self._standing.promised) - time.monotonic())

    def write(self, data: dict[str, Any], *, metadata: Metadata | None = None) -> int:
        """Write and stay the holder; where the lease is kept alive, this extends it.

        Returns the new version. Raises as the memory's ``write``, with the version that this lease has seen.
        """
        return self._memory._write_checked(
            self.id, data, lease=self, expected_version=self._known_version, metadata=metadata
        )

    def commit(self, data: dict[str, Any], *, metadata: Metadata | None = None) -> int:
        """Write and release in one atomic step.

        Returns the new version. Raises as ``write``, and the lease then stays as it was.
        """
        return self._memory._write_checked(
            self.id, data, lease=self, expected_version=self._known_version, metadata=metadata, release=True
        )

    def renew(self, ttl: float | timedelta | None = None) -> None:
        """Extend the lease to ``ttl`` seconds from now, by default its own ttl.

        Raises ``LockLost`` where it is live no more: it is never resurrected. A failing store: ``LockError``.
        """
        self._memory._renew_lease(self, ttl)

    def release(self) -> bool:
        """Release, as the memory's ``unlock`` does."""
        return self._memory._unlock(self.id, self)

    async def awrite(self, data: dict[str, Any], *, metadata: Metadata | None = None) -> int:
        """See ``write``."""
        return await self._memory._hop(self.write, data, metadata=metadata)

    async def acommit(self, data: dict[str, Any], *, metadata: Metadata | None = None) -> int:
        """See ``commit``."""
        return await self._memory._hop(self.commit, data, metadata=metadata)

    async def arenew(self, ttl: float | timedelta | None = None) -> None:
        """See ``renew``."""
        await self._memory._hop(self.renew, ttl)

    async def arelease(self) -> bool:
        """See ``release``. A task that is cancelled meanwhile has released all the same."""
        try:
            return await self._memory._hop(self.release)
        except BaseException:
            self._abandon()
            raise

    # For the steps and the keeper

    @property
    def _key(self) -> Hashable:
        """By what a context remembers it."""
        return self._memory, self.id

    @property
    def _standing(self) -> _Standing:
        standing, _ = self._settled()
        return standing

    @property
    def _known_version(self) -> int | None:
        """The version to be expected; ``None`` after a rollback, of which the store knows more."""
        standing, undo = self._settled()
        return standing.version if undo == self._state[1] else None

    @property
    def _is_given_back(self) -> bool:
        return self._standing.over is not None

    @property
    def _is_settled(self) -> bool:
        """Whether no transaction of the caller's can take back what was done last."""
        _, undo = self._settled()
        return not undo

    @property
    def _over(self) -> str | None:
        """Why it is of no use any more."""
        return self._standing.over or self._lost

    @property
    def _is_own(self) -> bool:
        """Whether this process took it, and not the one that it was forked from."""
        return self._process == os.getpid()

    def _is_live(self) -> bool:
        return self._over is None and self.remaining > 0

    def _check(self) -> None:
        """Raise ``LockLost`` where it is known that it can be used no more."""
        if reason := self._over if self._is_own else "belongs to the process that this one was forked from":
            raise LockLost(f"The lease of {quoted(self.id)} {reason}. Lock again, and start from the stored state.")

    def _grant(self, grant: Grant, asked_at: float) -> None:
        self.fence = grant.fence
        self._state = (_Standing(grant.text if self._shows_data else None, grant.version), ())
        self._term = _Term(self.ttl, asked_at + self.ttl)
        self._granted_at = time.monotonic()
        telemetry.instruments.granted(self)

    def _renewed(self, ttl: float, asked_at: float) -> None:
        self._change(replace(self._standing, promised=0.0))
        self._term = _Term(ttl, asked_at + ttl)
        keeper.note(self)

    def _kept(self, term: _Term, asked_at: float) -> None:
        """Take note that it was renewed in the background, unless its holder has done so meanwhile."""
        if self._term is term:
            self._term = _Term(term.ttl, asked_at + term.ttl)

    def _wrote(self, text: EncodedData, version: int, asked_at: float) -> None:
        self._lost = None
        shown = text if self._shows_data else None
        self._change(_Standing(shown, version, promised=asked_at + self.ttl if self._keep_alive else 0.0))
        keeper.note(self)

    def _end(self, reason: str) -> None:
        """Take note that its holder gave it back."""
        if self._over is None and self._granted_at is not None:
            telemetry.held(self._memory, time.monotonic() - self._granted_at)
        self._change(replace(self._standing, over=reason))
        if self._is_settled:
            keeper.drop(self)
            forget(self)

    def _abandon(self) -> None:
        """Have it given back in the background, as whoever would do so is going. Twice does no harm."""
        self._is_unwanted = True
        if self._granted_at is not None and self._is_own and not (self._is_given_back and self._is_settled):
            keeper.give_back(self)

    def _settled(self) -> tuple[_Standing, _Undo]:
        """Return how things stand by what has become of the transactions that steps have joined."""
        standing, undo = self._state
        while undo:
            joined, before = undo[-1]
            committed = joined.committed
            if committed is None:
                break
            standing, undo = (standing, ()) if committed else (before, undo[:-1])
        return standing, undo

    def _change(self, standing: _Standing) -> None:
        before, undo = self._settled()
        latest = undo[-1][0] if undo else None
        joined = self._memory._joined(latest)
        if joined is None:
            undo = ()
        elif joined is not latest:
            undo = (*undo, (joined, before))
        self._state = (standing, undo)


class _Block:
    """What is alike of the two blocks. It may be entered more than once, as a decorator is, but not at once."""

    _lease: Lease | None = None

    def __init__(
        self, memory: "MemorySteps", id: str, ttl: float, patience: dict[str, Any], *, keep_alive: bool
    ) -> None:
        self._memory, self._id, self._ttl = memory, id, ttl
        self._patience, self._keep_alive = patience, keep_alive

    def __del__(self) -> None:
        # What an exception kept even the first line of the exit from giving back.
        if self._lease is not None:
            self._lease._abandon()

    def _recreate_cm(self) -> Self:
        return type(self)(self._memory, self._id, self._ttl, self._patience, keep_alive=self._keep_alive)

    def _new_lease(self) -> Lease:
        self._lease = Lease(self._memory, self._id, self._ttl, keep_alive=self._keep_alive)
        return self._lease

    def _entered(self, lease: Lease, *, taken: bool) -> Lease:
        if not taken:
            raise self._memory._denied(lease)
        hold(lease)
        if self._keep_alive:
            keeper.keep(lease)
        return lease


class LeaseBlock(_Block, ContextDecorator):
    """Holds a lease from its beginning to its end."""

    def __enter__(self) -> Lease:
        try:
            lease, take = self._new_lease(), self._memory._take_for_block
            if self._patience:
                take = tenacity.Retrying(**self._patience).wraps(take)
            return self._entered(lease, taken=take(lease))
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *error: object) -> None:
        lease = self._lease
        try:
            if lease is not None:
                self._memory._leave(lease)
        except BaseException:
            if lease is not None:
                lease._abandon()
            raise
        self._lease = None


class AsyncLeaseBlock(_Block, AsyncContextDecorator):
    """The same, for a task: what waits for the store does so in a thread."""

    async def __aenter__(self) -> Lease:
        try:
            lease, take = self._new_lease(), self._take
            if self._patience:
                take = tenacity.AsyncRetrying(**self._patience).wraps(take)
            return self._entered(lease, taken=await take(lease))
        except BaseException:
            self._abandon()
            raise

    async def _take(self, lease: Lease) -> bool:
        return await self._memory._hop(self._memory._take_for_block, lease)

    async def __aexit__(self, *error: object) -> None:
        lease = self._lease
        if lease is None:
            return
        try:
            await self._memory._hop(self._memory._leave, lease)
        except BaseException:
            self._abandon()
            raise
        finally:
            forget(lease)
        self._lease = None

    def _abandon(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            keeper.drop(lease)
            forget(lease)
            lease._abandon()
