"""The contract of listings and purges: what operators ask a store for."""

import secrets

from machine_memory.core.records import Metadata
from machine_memory.testing.contract.promises import Contract, promise
from machine_memory.testing.staging import Somebody


class ListingContract(Contract):
    """Needs ``find``, ``held_locks``, ``children``, ``tree``, ``purge_locks`` and ``purge_machines``."""

    def test_machines_are_found_by_what_they_are(self) -> None:
        memory, prefix, status = self.make_memory(), self.new_id(), secrets.token_hex(8)
        for name in ("c", "a", "b"):
            memory.write(f"{prefix}/{name}", {}, metadata=Metadata(status=status if name != "b" else "another"))
        memory.lock(f"{prefix}/locked")

        def found(**criteria: object) -> str:
            return "".join(one.id.rpartition("/")[2] for one in memory.find(prefix=prefix, **criteria))  # type: ignore[arg-type]

        promise(found() == "abc", f"find() is of machines with state, by id: a, b, c, and not {found()}.")
        promise(found(status=status) == "ac", "find() is of machines of the status.")
        promise(found(after=f"{prefix}/a", limit=1) == "b", "find() begins after an id, and ends at the limit.")
        promise(found(idle=3600) == "", "find() with idle is of machines that were written that long ago.")

    def test_live_leases_are_listed(self) -> None:
        memory, id = self.make_memory(), self.new_id()
        memory.lock(id)
        over = self.locked_and_expired(memory)
        listed = {info.id: info for info in memory.held_locks()}
        promise(listed.get(id) == memory.holder(id), "held_locks() tells of each live lease, as holder() does.")
        promise(over not in listed, "held_locks() must not tell of a lease that has run out.")

    def test_relatives_are_found(self) -> None:
        memory, top, one, two = self.make_memory(), *(self.new_id() for _ in range(3))
        memory.write(top, {})
        memory.write(one, {}, metadata=Metadata(parent=top))
        memory.write(two, {}, metadata=Metadata(parent=one))
        promise(memory.children(top) == [one], "children() are the machines whose parent it is.")
        promise(memory.tree(top) == sorted([top, one, two]), "tree() is of all machines of that root, by id.")

    def test_a_purge_spares_what_is_alive(self) -> None:
        memory, id = self.make_memory(), self.new_id()
        Somebody()(memory.lock, id)
        over = self.locked_and_expired(memory)
        memory.purge_expired_locks()
        promise(memory.holder(id) is not None, "purge_locks() must end no live lease.")
        promise(memory.unlock(over), "purge_locks() leaves nothing that others could not lock.")

    def test_what_may_go_is_purged(self) -> None:
        memory, status, ids = self.make_memory(), secrets.token_hex(8), [self.new_id() for _ in range(3)]
        for id in ids:
            memory.write(id, {"of": id}, metadata=Metadata(status=status if id != ids[2] else "another"))
        memory.lock(ids[1])
        promise(memory.purge_machines(status=status, idle=3600).deleted == 0, "purge_machines() spares what is young.")
        told = memory.purge_machines(status=status, idle=0, dry_run=True)
        promise(told.deleted == 1 and memory.read(ids[0]) is not None, "A dry run counts, and deletes nothing.")
        deleted = memory.purge_machines(status=status, idle=0).deleted
        left = [id for id in ids if memory.read(id) is not None]
        promise(
            (deleted, left) == (1, ids[1:]),
            "purge_machines() deletes what has the status, is written long enough ago, and is held by nobody.",
        )
