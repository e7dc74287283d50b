"""A lease on its way, as a text: from the context that detached it to the one that attaches it."""

import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import timedelta
from functools import partial
from hashlib import sha256
from typing import Any

from machine_memory import exceptions as errors
from machine_memory.core import validation
from machine_memory.core.contexts import hold
from machine_memory.core.encoding import as_json
from machine_memory.core.keeper import keeper
from machine_memory.core.lease import DETACHED, Lease
from machine_memory.core.lifecycle import end, take
from machine_memory.core.records import LeaseRef
from machine_memory.core.store import lock_lost
from machine_memory.core.validation import quoted

FORMAT = "1"
_TEXT = re.compile(r"(\d+)\.([\w-]+)\.([0-9a-f]{16})", re.ASCII)
_TOKEN = re.compile(r"[0-9a-f]{32}")


def detach(lease: Lease) -> str:
    """Return the text that a lease becomes. Whatever is raised, it is as it was, and its block gives it back."""
    lease._check()
    if not lease.remaining:
        raise lock_lost(lease.id)
    if not lease._is_settled or lease._memory.store.joined(None) is not None:
        raise errors.LockInTransaction(
            f"The lease of {quoted(lease.id)} is not detached inside an open transaction: a rollback would take back"
            " what was written under it, and not the text. Detach it when the transaction is over."
        )
    text, before = packed(lease._ref, rearmed=lease._standing.rearmed), lease._state
    try:
        end(lease, DETACHED)
        return text  # noqa: TRY300  # Until it is handed over, it is nobody's.
    except BaseException:
        lease._state = before
        hold(lease)
        if lease._keep_alive:
            keeper.keep(lease)
        raise


def attaching(text: object, ttl: float | timedelta | None) -> dict[str, Any]:
    """Return what a block needs to go on with the lease that became ``text``."""
    (id, token, its_ttl), rearmed = unpacked(text)
    extension = None if ttl is None else validation.ttl(ttl)
    attempt = partial(take, attempt=partial(_resume, ttl=extension, rearmed=rearmed))
    return {"id": id, "ttl": extension or its_ttl, "patience": {}, "token": token, "attempt": attempt}


def _resume(lease: Lease, *, ttl: float | None, rearmed: bool) -> bool:
    asked_at = lease._memory.store.monotonic()
    with lease._memory.steps("attach", lease.id, errors.LockError, "attach the lease of") as step:
        resumption = lease._memory.store.resume(lease.id, token=lease._token, ttl=ttl)
        if resumption is None:
            raise lock_lost(lease.id)
        lease._resume(resumption, asked_at, rearmed=rearmed)
        if not lease.remaining:
            raise lock_lost(lease.id)
        step.locked(resumption, lease.ttl)
    return True


def packed(lease: LeaseRef, *, rearmed: bool = False) -> str:
    """Return a lease as a text of letters, digits and ``.-_`` alone. ``rearmed``: a first write ends its timer."""
    body = urlsafe_b64encode(as_json([*lease, rearmed]).encode()).decode().rstrip("=")
    return f"{FORMAT}.{body}.{_checksum(FORMAT, body)}"


def unpacked(text: object) -> tuple[LeaseRef, bool]:
    """Return what ``packed`` was given. Raises ``InvalidLease``, whose message does not quote what is secret."""
    if not isinstance(text, str):
        raise errors.InvalidLease(f"text must be the str that a lease's detach() returned, not {quoted(text)}.")
    match = _TEXT.fullmatch(text)
    if match is None or match[3] != _checksum(match[1], match[2]):
        raise errors.InvalidLease(
            f"text is not what a lease's detach() returned, or not as it was ({len(text):,} characters): pass it on"
            " whole and unchanged."
        )
    if match[1] != FORMAT:
        raise errors.InvalidLease(
            f"text is a lease in the format {match[1][:9]}, and this machine_memory reads {FORMAT} alone: have both"
            " ends use the same version."
        )
    return _checked(match[2])


def _checked(body: str) -> tuple[LeaseRef, bool]:
    try:
        id, token, ttl, rearmed = json.loads(urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        if _TOKEN.fullmatch(token):
            return (validation.machine_id(id), token, validation.ttl(ttl)), bool(rearmed)
    except (TypeError, ValueError, RecursionError):
        pass
    raise errors.InvalidLease("text was not made by a lease's detach(): what it says is no lease.")


def _checksum(version: str, body: str) -> str:
    return sha256(f"{version}.{body}".encode()).hexdigest()[:16]
