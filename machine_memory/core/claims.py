"""Claiming: leases of the machines that are due, whichever those are."""

import logging
import secrets
from dataclasses import replace

from machine_memory import exceptions as errors
from machine_memory.core.batch import Batch, Changing, log_takeovers
from machine_memory.core.blocks import BatchBlock
from machine_memory.core.contexts import describe_owner
from machine_memory.core.failures import MACHINES
from machine_memory.core.keeper import keeper
from machine_memory.core.lease import Lease
from machine_memory.core.records import Claim, Claimed, Shown, Written

logger = logging.getLogger("machine_memory")


class ClaimBlock(BatchBlock[Written, Shown]):
    """Holds what was claimed from its beginning to its end."""

    def __init__(self, memory: Changing, claim: Claim, *, keep_alive: bool) -> None:
        super().__init__(memory, [], claim.ttl, keep_alive=keep_alive)
        self._claim = claim

    def _new_batch(self) -> Batch[Written, Shown]:
        claim = replace(self._claim, owner=describe_owner())
        self._batch = _ClaimedBatch(self._memory, claim, keep_alive=self._keep_alive)
        return self._batch


class _ClaimedBatch(Batch[Written, Shown]):
    """A batch of which the store says what is in it."""

    def __init__(self, memory: Changing, claim: Claim, *, keep_alive: bool) -> None:
        super().__init__(memory, {})
        self._claim, self._keep_alive = claim, keep_alive
        self._pending: dict[str, str] = {}
        """What may have been granted, with an answer that has not come."""
        self._is_unwanted = False

    def _ask(self) -> None:
        left, most = self._claim.limit, self._memory.store.batch
        while left > 0:
            limit = min(left, most)
            found = self._take_some(limit)
            left = left - found if found == limit else 0
        if self._is_unwanted:
            self._abandon()  # Whoever asked was cancelled meanwhile, and knew of no grant.
        self._admit()

    def _take_some(self, limit: int) -> int:
        store, claim = self._memory.store, self._claim
        with self._memory.steps("claim", MACHINES, errors.LockError) as step:
            # 108 random bits and a number: each token is as secret as one that was drawn for itself.
            some = replace(claim, limit=limit, secret=secrets.token_hex(14)[:27], trace=step.trace())
            asked_at = store.monotonic()
            found = store.claim(some, self._pending)
            for one in found:
                self._asked[one.id] = lease = self._lease(one.id, one.token)
                lease._grant(one.grant, asked_at)
            self._pending.clear()
            step.claimed([grant for _, _, grant in found], ttl=claim.ttl, max_attempts=claim.max_attempts)
            self._log(found)
        return len(found)

    def _log(self, found: list[Claimed]) -> None:
        log_takeovers(grant for _, _, grant in found)
        most = self._claim.max_attempts
        if exhausted := sum(grant.due is not None and grant.due.attempts >= most for _, _, grant in found):
            logger.warning("claimed %d machines for the last time, after %d attempts", exhausted, most)

    def _lease(self, id: str, token: str) -> Lease:
        claim = self._claim
        return Lease(self._memory, id, claim.ttl, claim.owner, keep_alive=self._keep_alive, token=token)

    def _abandon(self) -> None:
        self._is_unwanted = True
        self._asked = self._asked.copy()  # A thread may be about to add to it.
        super()._abandon()
        known = {lease._token for lease in self._asked.values()}
        for token, id in self._pending.copy().items():
            if token not in known:
                keeper.give_back(self._lease(id, token), may_come=True)
