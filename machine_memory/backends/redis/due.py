"""What is due: an index of hints, each with the moment at which its machine is worth a look.

Each write that sets a timer has a hint of its own, with its number, and the hash remembers that number. A claim moves
the hint that is known; another one is of a write that is still on its way, was refused, or was followed by another. The
hint of a timer that a write has ended goes with the next one that is added: no number is known twice.
"""

import secrets
from collections.abc import Iterator
from dataclasses import replace
from heapq import nsmallest
from itertools import islice
from typing import Any, NamedTuple

from redis import RedisError

from machine_memory.backends.redis import scripts
from machine_memory.backends.redis.hashes import (
    SCANNED,
    Hashes,
    as_number,
    as_text,
    as_time,
    microseconds,
    without_others,
)
from machine_memory.backends.redis.hints import DECIDED, Hint, Hints
from machine_memory.backends.redis.servers import raise_any, raise_lost
from machine_memory.core.encoding import as_stored
from machine_memory.core.records import Claim, Claimed, Due, Grant

NAME = "due"
"""Of the key of the index."""
FIELDS = ["wake_at", "wake_hint"]


class Timer(NamedTuple):
    """What a hash says of its timer, and the time."""

    wake_at: int | None
    known: int
    """The number of its hint."""
    now: int


class Look(NamedTuple):
    """A hint that may be due."""

    hint: Hint
    number: int
    id: str

    def mended(self, told: Timer) -> str | None:
        """Return the score that it should have, or that it should go (``""``); ``None``: it may stay as it is."""
        if self.number != told.known:
            return "" if told.now - self.number > DECIDED else None
        if told.wake_at is None:
            return ""
        return None if told.wake_at == self.hint.score else str(told.wake_at)


def looks(index: Hints, first: int, most: int) -> list[Look]:
    """Return hints that are due, so many of those after the first."""
    return [_look(hint) for hint in index.due(first, most)]


def _look(hint: Hint) -> Look:
    number, _, id = hint.member.partition(":")
    return Look(hint, int(number), id)


def tidy(hashes: Hashes, index: Hints) -> None:
    """Mend all hints, as claims do with those that are due."""
    found = map(_look, index.all())
    while some := list(islice(found, SCANNED)):
        rows = hashes.rows({look.id for look in some}, FIELDS)
        told = {id: Timer(as_number(at) if at else None, as_number(known), now) for id, now, (at, known) in rows}
        seen = [look for look in some if look.id in told]
        index.mend({look.hint: score for look in seen if (score := look.mended(told[look.id])) is not None})


def wanted(id: str, wake_at: str | None, known: str | None) -> Iterator[Hint]:
    """Yield the hint that a machine with these fields should have."""
    if wake_at:
        yield Hint(f"{as_number(known)}:{id}", as_number(wake_at))


class _Reply:
    """What a hash says of its timer, and what was granted, if anything."""

    def __init__(self, row: list[Any]) -> None:
        done, wake_at, known, now, *granted = row
        self.timer = Timer(None if wake_at is None else int(wake_at), as_number(as_text(known)), now)
        self.grant: Grant | None = None
        if done:
            at, attempts, rearmed, data, version, fence, evicted = granted
            due = Due(as_time(at), (now - at) / 1_000_000, attempts, rearmed=bool(rearmed))
            self.grant = Grant(as_stored(as_text(data)), version, fence, as_text(evicted), due)


def claim_due(hashes: Hashes, index: Hints, claim: Claim, pending: dict[str, str]) -> list[Claimed]:
    """Grant leases of what is due, as the hints say it, and mend those."""
    claimed: list[Claimed] = []
    failed: list[Any] = []
    passed = 0
    while len(claimed) < claim.limit and (found := looks(index, passed, claim.limit - len(claimed))):
        # A token has room for the number of a machine in one look, not for all that may be looked at.
        claim = replace(claim, secret=secrets.token_hex(len(claim.secret))[: len(claim.secret)])
        asked = {claim.token(number): look for number, look in enumerate(found)}
        pending |= {token: look.id for token, look in asked.items()}
        replies = _asked(hashes, claim, [(look.id, token, "") for token, look in asked.items()], failed)
        claimed += (one for one, _ in replies.values() if one is not None)
        told = [(look, replies[token][1].timer) for token, look in asked.items() if token in replies]
        scores = {look.hint: score for look, reply in told if (score := look.mended(reply)) is not None}
        try:
            passed += len(found) - index.mend(scores)
        except RedisError:  # A hint that is left too early costs another look.
            break
    if not claimed:  # What is due on other servers is no reason to say nothing of one that fails.
        raise_any(failed)
    return claimed


def claim_expired(hashes: Hashes, index: Hints, claim: Claim, pending: dict[str, str]) -> list[Claimed]:
    """Grant leases of what has expired, for which there is no index: all are looked through."""
    expired = {
        (at, id)
        for id, now, (expires_at, status, attempts) in hashes.scan("lease_expires_at", "status", "attempts")
        if 0 < (at := as_number(expires_at)) <= now and as_number(attempts) < claim.max_attempts
        if claim.status in (None, status)
    }
    asked = {claim.token(number): id for number, (_, id) in enumerate(nsmallest(claim.limit, expired))}
    if not asked:
        return []
    hint = index.add(f"+{microseconds(claim.ttl)}", asked.values())
    pending |= asked
    failed: list[Any] = []
    replies = _asked(hashes, claim, [(id, token, hint) for token, id in asked.items()], failed)
    raise_any(failed)
    return [one for one, _ in replies.values() if one is not None]


def _asked(
    hashes: Hashes, claim: Claim, asked: list[tuple[str, str, str]], failed: list[Any]
) -> dict[str, tuple[Claimed | None, _Reply]]:
    """Ask for leases by id, token and hint. Return, by token, what was granted, and what else each hash says.

    Raises where an answer was lost; other failures are left in ``failed``.
    """
    more = (claim.owner, microseconds(claim.ttl), claim.trace, "1" if claim.expired else None, claim.status)
    calls = [(id, token, *more, claim.max_attempts, hint) for id, token, hint in asked]
    rows = without_others(hashes.run_each(scripts.CLAIM, calls))
    raise_lost(rows)
    told = {}
    for (id, token, _), row in zip(asked, rows, strict=True):
        if isinstance(row, RedisError):
            failed.append(row)
        elif row is not None:
            reply = _Reply(row)
            told[token] = None if reply.grant is None else Claimed(id, token, reply.grant), reply
    return told
