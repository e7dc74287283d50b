"""The lease: what a successful lock grants, from the instant its token exists until it is given back."""

import os
import secrets
import time
from collections.abc import Hashable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Generic, Protocol

from machine_memory.core import telemetry
from machine_memory.core.encoding import decode
from machine_memory.core.failures import Steps
from machine_memory.core.records import (
    KEEP,
    EncodedData,
    Grant,
    Joined,
    LeaseRef,
    Metadata,
    Resumption,
    Shown,
    WakeAt,
    Written,
)
from machine_memory.core.store import Store
from machine_memory.core.validation import quoted
from machine_memory.exceptions import LockLost

DETACHED = "was detached: whoever has the text that it became is its holder"


class Memory(Protocol):
    """What a lease needs of the memory that it is of."""

    store: Store
    steps: Steps

    def _write(
        self,
        id: str,
        data: Any,
        lease: "Lease",
        seen: int | None,
        *,
        metadata: Metadata | None,
        wake_at: WakeAt,
        release: bool,
    ) -> int: ...
    def _by_now(self) -> "Memory": ...
    def _load(self, id: str, data: object) -> Any: ...
    def _renew(self, lease: "Lease", ttl: float | timedelta | None) -> None: ...
    def _release(self, lease: "Lease") -> bool: ...
    async def _arelease(self, lease: "Lease") -> bool: ...
    def _detach(self, lease: "Lease") -> str: ...


@dataclass(slots=True)  # Never changed; to have that checked would cost more than all the rest.
class _Standing:
    """What a rollback of the caller's transaction takes back."""

    text: EncodedData | None = None
    version: int = 0
    over: str | None = None
    """How the holder gave the lease back."""
    promised: float = 0.0
    """Until when a write has extended it, as ``_Term.ends_at``."""
    rearmed: bool = False
    """Whether its timer is still that of the claim, which the first write ends."""


@dataclass(slots=True)
class _Term:
    ttl: float
    ends_at: float
    """By the store's ``monotonic`` clock, counted from before the store was asked."""


_Undo = tuple[tuple[Joined, _Standing], ...]
"""What to go back to, should a transaction of the caller's that a step has joined be rolled back; the latest last."""


class Lease(Generic[Written, Shown]):
    """A live lease of a machine. Whoever has the object is the holder, in whatever thread or task of this process."""

    def __init__(
        self,
        memory: Memory,
        id: str,
        ttl: float,
        owner: str,
        *,
        keep_alive: bool = False,
        shows_data: bool = True,
        token: str | None = None,
    ) -> None:
        self.id = id
        self.owner = owner
        self.fence = 0
        self.wake_at: datetime | None = None
        """When the machine was due; ``None``: the lease was not claimed."""
        self.attempts = 0
        """How often it was claimed since it was written last, this time included."""
        self._memory = memory
        self._token = token or secrets.token_hex(16)
        self._process = os.getpid()
        # Each is replaced as a whole: a signal, or the thread that keeps it alive, finds the one or the other.
        self._state: tuple[_Standing, _Undo] = (_Standing(), ())
        self._term = _Term(ttl, memory.store.monotonic() + ttl)
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
    def data(self) -> Shown:
        """The state as this lease last saw it; ``None``: no state yet. It is yours to change."""
        text = self._standing.text
        if self._decoded[0] is not text:
            self._decoded = (text, self._memory._load(self.id, decode(text)))
        shown: Shown = self._decoded[1]
        return shown

    @property
    def version(self) -> int:
        """The version of ``data``; 0: no state yet."""
        return self._standing.version

    @property
    def ttl(self) -> float:
        """The seconds that it was granted for, or was last renewed for."""
        return self._term.ttl

    @property
    def remaining(self) -> float:
        """Seconds left, counted from before the store was asked: never more than it would say."""
        return max(0.0, max(self._term.ends_at, self._standing.promised) - self._memory.store.monotonic())

    def write(self, data: Written, *, metadata: Metadata | None = None, wake_at: WakeAt = KEEP) -> int:
        """Write and stay the holder; where the lease is kept alive, this extends it.

        Returns the new version. Raises as the memory's ``write``, with the version that this lease has seen. Where the
        lease was claimed, its first write ends the timer, unless it sets one.
        """
        return self._memory._write(self.id, data, self, self.version, metadata=metadata, wake_at=wake_at, release=False)

    def commit(self, data: Written, *, metadata: Metadata | None = None, wake_at: WakeAt = KEEP) -> int:
        """Write and release in one atomic step.

        Returns the new version. Raises as ``write``, and the lease then stays as it was.
        """
        return self._memory._write(self.id, data, self, self.version, metadata=metadata, wake_at=wake_at, release=True)

    def renew(self, ttl: float | timedelta | None = None) -> None:
        """Extend the lease to ``ttl`` seconds from now, by default its own ttl.

        Raises ``LockLost`` where it is live no more: it is never resurrected. A failing store: ``LockError``.
        """
        self._memory._renew(self, ttl)

    def release(self) -> bool:
        """Release, as the memory's ``unlock`` does."""
        return self._memory._release(self)

    def detach(self) -> str:
        """End this context's part, and not the lease: return a text with which ``attach`` goes on, wherever it gets to.

        Whoever has the text is the holder: keep it as a secret. Nothing but its ttl ends the lease until somebody does.
        Raises ``LockLost`` where it is over, ``LockInTransaction`` inside an open transaction; it then stays as it was.
        """
        return self._memory._detach(self)

    async def awrite(self, data: Written, *, metadata: Metadata | None = None, wake_at: WakeAt = KEEP) -> int:
        """See ``write``."""
        return await self._memory.steps.hop(self.write, data, metadata=metadata, wake_at=wake_at)

    async def acommit(self, data: Written, *, metadata: Metadata | None = None, wake_at: WakeAt = KEEP) -> int:
        """See ``commit``."""
        return await self._memory.steps.hop(self.commit, data, metadata=metadata, wake_at=wake_at)

    async def arenew(self, ttl: float | timedelta | None = None) -> None:
        """See ``renew``."""
        await self._memory.steps.hop(self.renew, ttl)

    async def arelease(self) -> bool:
        """See ``release``. A task that is cancelled meanwhile has released all the same."""
        return await self._memory._arelease(self)

    # For its lifecycle and the keeper

    @property
    def _key(self) -> Hashable:
        """By what a context remembers it."""
        return self._memory.store, self.id

    @property
    def _ref(self) -> LeaseRef:
        return self.id, self._token, self.ttl

    @property
    def _ends_at(self) -> float:
        return self._term.ends_at

    @property
    def _standing(self) -> _Standing:
        standing, undo = self._state
        return self._settled()[0] if undo else standing

    @property
    def _is_given_back(self) -> bool:
        return self._standing.over is not None

    @property
    def _is_detached(self) -> bool:
        return self._standing.over == DETACHED

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
        return self._is_own and self._over is None and self.remaining > 0

    def _wakes(self, wake_at: WakeAt) -> WakeAt:
        """Return what a write under it does to the timer."""
        return None if wake_at is KEEP and self._standing.rearmed else wake_at

    def _check(self) -> None:
        """Raise ``LockLost`` where it is known that it can be used no more."""
        if reason := self._over if self._is_own else "belongs to the process that this one was forked from":
            raise LockLost(f"The lease of {quoted(self.id)} {reason}. Lock again, and start from the stored state.")

    def _grant(self, grant: Grant, asked_at: float) -> None:
        self.fence = grant.fence
        text = grant.text if self._shows_data else None
        self._state = (_Standing(text, grant.version, rearmed=grant.due is not None and grant.due.rearmed), ())
        if grant.due is not None:
            self.wake_at, self.attempts = grant.due.at, grant.due.attempts
        self._term = _Term(self.ttl, asked_at + self.ttl)
        self._granted_at = time.monotonic()
        telemetry.instruments.granted(self, self._memory.steps.origin)

    def _resume(self, resumption: Resumption, asked_at: float, *, rearmed: bool) -> None:
        self.owner = resumption.owner
        self._grant(resumption, asked_at)
        self._state = (replace(self._standing, rearmed=rearmed), ())
        self._term = _Term(self.ttl, asked_at + resumption.left)

    def _renewed(self, ttl: float, asked_at: float) -> None:
        self._change(replace(self._standing, promised=0.0))
        self._term = _Term(ttl, asked_at + ttl)

    def _kept(self, term: _Term, asked_at: float) -> None:
        """Take note that it was renewed in the background, unless its holder has done so meanwhile."""
        if self._term is term:
            self._term = _Term(term.ttl, asked_at + term.ttl)

    def _wrote(self, text: EncodedData, version: int, asked_at: float, over: str | None = None) -> None:
        """Take note of a write, and that it has ended the lease where there is a reason (``over``)."""
        self._lost = None
        if over:
            self._tell_how_long()
        shown = text if self._shows_data else None
        promised = asked_at + self.ttl if self._keep_alive else 0.0
        self._change(_Standing(shown, version, over or self._standing.over, promised))

    def _end(self, reason: str) -> None:
        """Take note that its holder gave it back."""
        self._tell_how_long()
        now = self._standing
        self._change(_Standing(now.text, now.version, reason, now.promised))

    def _tell_how_long(self) -> None:
        if self._over is None and self._granted_at is not None:
            telemetry.held(self._memory.steps.origin, time.monotonic() - self._granted_at)

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
        joined = self._memory.store.joined(latest)
        if joined is None:
            undo = ()
        elif joined is not latest:
            undo = (*undo, (joined, before))
        self._state = (standing, undo)
