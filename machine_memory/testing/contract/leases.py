"""The contract of leases: one worker at a time, and no zombie."""

from datetime import timedelta

from machine_memory.exceptions import LockDenied, LockLost, LockNotHeld
from machine_memory.testing.contract.promises import CROWD, Contract, at_once, promise, refused
from machine_memory.testing.staging import Somebody


class LeaseContract(Contract):
    """Needs ``read``, ``write``, ``acquire``, ``renew``, ``release``, ``force_release``, ``holder`` and ``resume``."""

    def test_of_many_workers_at_once_one_gets_the_lock(self) -> None:
        memory = self.make_memory()
        for _ in range(5):
            id = self.new_id()
            granted = at_once(memory, lambda number, id=id: memory.lock(id))  # type: ignore[misc]
            promise(
                sum(granted) == 1,
                f"{sum(granted)} of {CROWD} workers got the same lock: acquire() must look and take in one step.",
            )

    def test_a_second_worker_is_denied_and_changes_nothing(self) -> None:
        memory, id = self.make_memory(), self.new_id()
        memory.lock(id)
        before = memory.holder(id)
        promise(before is not None, "holder() tells of a live lease.")
        promise(not Somebody()(memory.lock, id, ttl=1000), "acquire() must not grant what somebody else holds.")
        promise(memory.holder(id) == before, "A lock that is denied must leave the lease of the holder as it is.")

    def test_locking_is_not_reentrant(self) -> None:
        memory, id = self.make_memory(), self.new_id()
        memory.lock(id)
        promise(not memory.lock(id), "acquire() must deny the holder, too: its own lease stays.")
        promise(memory.write(id, {}) == 1, "The holder that was denied a second lock still holds the first.")

    def test_a_lease_lasts_its_ttl(self) -> None:
        memory, id = self.make_memory(), self.new_id()
        memory.lock(id, ttl=90)
        info = memory.holder(id)
        assert info is not None  # noqa: S101  # For type checkers: it was just locked.
        lasts = info.expires_at - info.locked_at
        promise(abs(lasts - timedelta(seconds=90)) < timedelta(seconds=0.01), f"A lease of 90 s lasts {lasts}.")

    def test_ids_are_compared_exactly(self) -> None:
        memory, id = self.make_memory(), self.new_id()
        alike = [
            id,
            id.upper(),
            f"{id} ",
            f" {id}",
            f"{id}é",
            f"{id}e\u0301",
            f"{id}😀",
            f"{id}😁",
            f"{id}/..",
            f"{id}%_*",
        ]
        for one in alike:
            promise(memory.lock(one), f"{one!r} is another machine than the others of {alike}.")
            memory.write(one, {"id": one})
        for one in alike:
            promise(memory.read(one) == {"id": one}, f"{one!r} has the state of another machine.")

    def test_a_lease_that_has_run_out_is_taken_over(self) -> None:
        memory = self.make_memory()
        id = self.locked_and_expired(memory)
        promise(memory.holder(id) is None, "holder() must not tell of a lease that has run out.")
        promise(
            Somebody()(memory.lock, id),
            "A lease that has run out must not keep others out: acquire() looks at its end.",
        )

    def test_a_zombies_write_is_refused_before_anybody_came(self) -> None:
        memory = self.make_memory()
        id = self.locked_and_expired(memory)
        with refused(LockLost, "write() must refuse the token of a lease that has run out."):
            memory.write(id, {})
        promise(memory.read(id) is None, "A write that was refused has changed the state.")

    def test_a_zombies_write_is_refused_after_a_takeover(self) -> None:
        memory, winner = self.make_memory(), Somebody()
        id = self.locked_and_expired(memory)
        winner(memory.lock, id)
        winner(memory.write, id, {"by": "winner"})
        with refused(LockLost, "A zombie wrote under somebody else's lease: write() must compare the token."):
            memory.write(id, {"by": "zombie"})
        winner(memory.unlock, id)
        with refused(LockLost, "A zombie wrote after somebody else's lease: a token without a lease opens nothing."):
            memory.write(id, {"by": "zombie"})
        promise(memory.read(id) == {"by": "winner"}, "A write that was refused has changed the state.")

    def test_a_zombie_cannot_end_anothers_lease(self) -> None:
        memory, winner = self.make_memory(), Somebody()
        id = self.locked_and_expired(memory)
        winner(memory.lock, id)
        before = memory.holder(id)
        promise(not memory.unlock(id), "release() returns False where somebody else's lease is live.")
        promise(before and memory.holder(id) == before, "release() must end no lease but that of its token.")

    def test_nobody_writes_under_anothers_lease(self) -> None:
        memory, id = self.make_memory(), self.new_id()
        Somebody()(memory.lock, id)
        with refused(LockNotHeld, "write() without a token must be refused under a live lease."):
            memory.write(id, {})
        promise(memory.read(id) is None, "A write that was refused has changed the state.")

    def test_unlock_is_tolerant(self) -> None:
        memory, id = self.make_memory(), self.new_id()
        promise(memory.unlock(id), "release() of what was never locked is True.")
        memory.lock(id)
        promise(memory.unlock(id) and memory.unlock(id), "release() is True, and so is the next.")
        promise(Somebody()(memory.lock, id), "After an unlock others can lock at once.")
        id = self.locked_and_expired(memory)
        promise(memory.unlock(id), "release() of a lease that has run out is True while nobody came.")

    def test_fences_grow(self) -> None:
        memory, id, fences = self.make_memory(), self.new_id(), []
        for _ in range(3):
            with memory.lease(id) as lease:
                fences.append(lease.fence)
                lease.write({})
            with memory.lease(id) as lease:
                fences.append(lease.fence)
            memory.cleanup(id)
        promise(
            sorted(set(fences)) == fences,
            f"Fences must grow for ever, over releases and removals, too: {fences}. Those of a clock do.",
        )

    def test_a_renewal_extends_a_live_lease_alone(self) -> None:
        memory, id = self.make_memory(), self.new_id()
        with memory.lease(id, ttl=10) as lease:
            lease.renew(1000)
            info = memory.holder(id)
            lasts = info and info.expires_at - info.locked_at
            promise(lasts and lasts > timedelta(seconds=900), f"renew() to 1000 s leaves a lease of {lasts}.")
        with memory.lease(id, ttl=self.brief) as lease:
            self.expire(memory, id)
            with refused(LockLost, "renew() must not resurrect a lease that has run out."):
                lease.renew()
            promise(Somebody()(memory.lock, id), "A renewal that was refused keeps others out.")

    def test_a_lease_shows_the_state_and_commits_it(self) -> None:
        memory, id = self.make_memory(), self.new_id()
        memory.write(id, {"n": 1})
        with memory.lease(id) as lease:
            promise((lease.data, lease.version) == ({"n": 1}, 1), "acquire() hands back state and version.")
            promise(lease.commit({"n": 2}) == 2, "A commit is the next version.")
            promise(memory.holder(id) is None, "write() with release ends the lease in the same step.")
        with refused(LockDenied, "lease() is denied where somebody else holds the machine."):
            Somebody()(memory.lock, id)
            with memory.lease(id):
                pass

    def test_a_forced_release_evicts(self) -> None:
        memory, id = self.make_memory(), self.new_id()
        promise(not memory.force_unlock(id), "force_release() is False where there is no lease.")
        with memory.lease(id) as lease:
            promise(
                not memory.force_unlock(id, fence=lease.fence + 1), "force_release() of another fence ends nothing."
            )
            promise(memory.force_unlock(id, fence=lease.fence), "force_release() ends the lease of that fence.")
            with refused(LockLost, "Whoever was evicted must not write."):
                lease.commit({})
        promise(Somebody()(memory.lock, id), "After a forced release others can lock at once.")

    def test_a_lease_travels(self) -> None:
        memory, id = self.make_memory(), self.new_id()
        with memory.lease(id) as lease:
            fence, text = lease.fence, lease.detach()
        promise(memory.holder(id) is not None, "A lease that was detached lives on.")
        with memory.attach(text) as lease:
            promise(lease.fence == fence, "resume() goes on with the same fence.")
            lease.commit({"n": 1})
        with refused(LockLost, "resume() must refuse a token whose lease is over."), memory.attach(text):
            pass
