"""The contract of many machines in one step: batches, and the claims of those that are due."""

import secrets
from datetime import timedelta

from machine_memory.core.records import Metadata
from machine_memory.exceptions import CommitRefused, LockLost
from machine_memory.testing.contract.promises import Contract, at_once, promise, refused
from machine_memory.testing.staging import Somebody, taken_over


class BatchContract(Contract):
    """Needs what leases do; ``acquire_each``, ``write_each``, ``renew_each`` and ``release_each`` have a default."""

    def test_a_batch_holds_what_can_be_had(self) -> None:
        memory, ids = self.make_memory(), sorted(self.new_id() for _ in range(3))
        Somebody()(memory.lock, ids[1])
        memory.write(ids[0], {"n": 1})
        with memory.leases(ids) as batch:
            promise(batch.denied == [ids[1]], "acquire_each() leaves out what somebody else holds, and nothing else.")
            promise(batch[ids[0]].data == {"n": 1}, "acquire_each() hands back each state.")
            promise(not Somebody()(memory.lock, ids[0]), "What a batch holds is locked.")
            batch.renew(1000)
            versions = batch.commit({ids[0]: {"n": 2}, ids[2]: {"n": 1}})
            promise(versions == {ids[0]: 2, ids[2]: 1}, f"A commit is the next version of each: {versions}.")
        promise([memory.read(id) for id in ids] == [{"n": 2}, None, {"n": 1}], "A batch stores each state.")
        promise(memory.holder(ids[0]) is None and memory.holder(ids[1]) is not None, "A batch releases its own leases.")

    def test_of_a_batch_each_is_refused_alone(self) -> None:
        memory, ids = self.make_memory(), sorted(self.new_id() for _ in range(3))
        with memory.leases(ids) as batch:
            taken_over(memory, ids[1])
            with refused(CommitRefused, "write_each() must write nothing under the token of a lease that is over."):
                batch.commit({id: {} for id in ids})
            promise(set(batch.committed) == {ids[0], ids[2]}, "What was not refused of a batch is stored.")
            promise(isinstance(batch.refused[ids[1]], LockLost), "Each is refused as it would be alone.")
        promise([memory.read(id) for id in ids] == [{}, None, {}], "Of a batch, what was refused must not be stored.")
        promise(memory.holder(ids[1]) is not None, "The end of a batch must not end the lease of somebody else.")

    def test_what_a_batch_leaves_out_is_released(self) -> None:
        memory, ids = self.make_memory(), sorted(self.new_id() for _ in range(2))
        with memory.leases(ids):
            pass
        promise(all(memory.lock(id) for id in ids), "release_each() ends the leases of these tokens.")


class TimerContract(Contract):
    """Needs ``claim``, and ``write`` to keep ``wake_at``."""

    def test_what_is_due_is_claimed_the_oldest_first(self) -> None:
        memory, status = self.make_memory(), secrets.token_hex(8)
        never, late, early, later, held = (self.new_id() for _ in range(5))
        memory.write(never, {}, metadata=Metadata(status=status))
        record = memory.record(never)
        assert record is not None  # noqa: S101  # For type checkers: it was just written.
        for id, hours in ((late, 1), (early, 2), (later, -1), (held, 3)):
            wake_at = record.written_at - timedelta(hours=hours)
            memory.write(id, {}, metadata=Metadata(status=status), wake_at=wake_at)
        Somebody()(memory.lock, held)
        with memory.claim(1, status=status) as batch:
            promise(held not in batch, "claim() must leave alone what somebody holds, be it due or not.")
            promise(
                [lease.id for lease in batch] == [early], "claim() is of what has been due for longest, up to `limit`."
            )
            with memory.claim(status=status) as others:
                promise(
                    [lease.id for lease in others] == [late], "claim() is of what is due by now, and not yet claimed."
                )
                others.commit({late: {}})
            promise(not Somebody()(memory.lock, early), "What was claimed is locked.")
            batch[early].commit({})
        with memory.claim(status=status) as batch:
            promise(len(batch) == 0, "A write ends the timer, unless it sets one.")

    def test_what_was_claimed_in_vain_is_due_again(self) -> None:
        memory, status, id = self.make_memory(), secrets.token_hex(8), self.new_id()
        memory.write(id, {}, metadata=Metadata(status=status), wake_at=timedelta(0))
        with memory.claim(status=status, ttl=self.brief, max_attempts=2) as batch:
            promise([lease.attempts for lease in batch] == [1], "The first claim is the first attempt.")
            self.expire(memory, id)
        with memory.claim(status=status, ttl=self.brief, max_attempts=2) as batch:
            promise([lease.attempts for lease in batch] == [2], "What was claimed in vain is due when that lease ends.")
            self.expire(memory, id)
        with memory.claim(status=status, max_attempts=2) as batch:
            promise(len(batch) == 0, "After `max_attempts` in vain a machine is not due any more.")

    def test_of_many_claimants_one_gets_each(self) -> None:
        memory, status, ids = self.make_memory(), secrets.token_hex(8), [self.new_id() for _ in range(12)]
        for id in ids:
            memory.write(id, {}, metadata=Metadata(status=status), wake_at=timedelta(0))

        def claim(number: int) -> list[str]:
            with memory.claim(3, status=status) as batch:
                found = [lease.id for lease in batch]
                batch.commit({id: {} for id in found})
                return found

        claimed = [id for found in at_once(memory, claim) for id in found]
        promise(
            len(claimed) == len(set(claimed)), "Two claims were granted the same machine: claim() is one atomic step."
        )
        promise(set(claimed) <= set(ids), "claim() granted what has another status.")

    def test_what_a_dead_worker_held_can_be_claimed(self) -> None:
        memory, status, id = self.make_memory(), secrets.token_hex(8), self.new_id()
        memory.write(id, {}, metadata=Metadata(status=status))
        memory.lock(id, ttl=self.brief)
        with memory.claim(status=status, expired=True) as batch:
            promise(len(batch) == 0, "claim() must leave live leases alone.")
        self.expire(memory, id)
        with memory.claim(status=status, expired=True) as batch:
            promise([lease.id for lease in batch] == [id], "claim() of what expired is of leases that have run out.")
