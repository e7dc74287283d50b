"""The contract of states: what was written is read, each write is counted, and none is lost."""

from machine_memory.core.records import Metadata
from machine_memory.exceptions import LockNotHeld, VersionConflict
from machine_memory.testing.contract.promises import CROWD, Contract, at_once, promise, refused
from machine_memory.testing.staging import Somebody


class StateContract(Contract):
    """Needs ``read``, ``record``, ``write`` and ``remove``, and ``acquire`` for what they refuse."""

    def test_what_was_never_written_is_none(self) -> None:
        memory, id = self.make_memory(), self.new_id()
        promise(memory.read(id) is None and memory.record(id) is None, "Without a state, read() and record() are None.")
        memory.lock(id)
        promise(memory.read(id) is None and memory.record(id) is None, "A lock makes no state.")

    def test_each_write_replaces_the_state_and_counts_one(self) -> None:
        memory, id = self.make_memory(), self.new_id()
        versions = [memory.write(id, {"n": n, str(n): n}) for n in range(3)]
        promise(versions == [1, 2, 3], f"Versions count writes: 1, 2, 3, and not {versions}.")
        promise(memory.read(id) == {"n": 2, "2": 2}, "write() replaces the whole state.")

    def test_it_comes_back_exactly_as_it_went_in(self) -> None:
        memory, id = self.make_memory(), self.new_id()
        for data in (
            {},
            {"z": 1, "a": {"later": 1, "b": 2, "10": 3, "9": 4}, "é": [None, True, False, 0, 1, [[], {}]]},
            {"large": 2**64, "float": 0.1, "tiny": 5e-324, "whole": 1.0, "minus zero": -0.0, "exponent": 1e23},
            {"text": "Grüße 😀 \u202e \\ \" ' \n\t\x7f", "": "empty", "escaped": "\\u0000 %s {}"},
            {"much": "x" * 100_000},
        ):
            memory.write(id, data)
            promise(
                repr(memory.read(id)) == repr(data),
                f"{str(data)[:60]} comes back as {str(memory.read(id))[:60]}: keep the text of the change as it is.",
            )

    def test_a_write_with_another_version_is_refused(self) -> None:
        memory, id = self.make_memory(), self.new_id()
        with refused(VersionConflict, "write() must compare the expected version: 1 is not that of no state, 0."):
            memory.write(id, {}, expected_version=1)
        promise(memory.record(id) is None, "A write that was refused has made a state.")
        memory.write(id, {"n": 1}, expected_version=0)
        for expected in (0, 2):
            with refused(VersionConflict, f"write() must compare the expected version: {expected} is not 1."):
                memory.write(id, {"n": 2}, expected_version=expected)
        record = memory.record(id)
        promise(
            record and (record.data, record.version) == ({"n": 1}, 1), "A write that was refused changed the state."
        )

    def test_of_many_writers_that_saw_the_same_one_is_accepted(self) -> None:
        memory, id = self.make_memory(), self.new_id()

        def write(number: int) -> bool:
            try:
                memory.write(id, {"by": number}, expected_version=0)
            except VersionConflict:
                return False
            return True

        accepted = at_once(memory, write)
        promise(
            sum(accepted) == 1,
            f"{sum(accepted)} of {CROWD} writers were the first: write() must compare and write in one atomic step.",
        )
        promise(
            memory.read(id) == {"by": accepted.index(True)}, "The state is not that of the write that was accepted."
        )

    def test_what_is_known_beside_the_state(self) -> None:
        memory, top, id = self.make_memory(), self.new_id(), self.new_id()
        memory.write(top, {})
        memory.write(id, {}, metadata=Metadata(status="new", source="shop", initiator="ann", parent=top))
        memory.write(id, {}, metadata=Metadata(status="paid", parent="another"))
        record = memory.record(id)
        assert record is not None  # noqa: S101  # For type checkers: it was just written.
        labels = (record.status, record.source, record.initiator, record.parent, record.root)
        promise(
            labels == ("paid", "shop", "ann", top, top),
            f"What a write leaves out stays, and the parent is that of the first write; stored is {labels}.",
        )
        promise(record.created_at <= record.written_at, "A machine is written when it is created, or later.")

    def test_cleanup_removes_what_nobody_else_holds(self) -> None:
        memory, id = self.make_memory(), self.new_id()
        promise(memory.cleanup(id), "remove() of what is not there does nothing.")
        memory.write(id, {})
        somebody = Somebody()
        somebody(memory.lock, id)
        with refused(LockNotHeld, "remove() must be refused under somebody else's lease."):
            memory.cleanup(id)
        promise(memory.read(id) == {}, "A removal that was refused has removed the state.")
        promise(somebody(memory.cleanup, id) and memory.read(id) is None, "remove() by the holder removes the state.")
        promise(memory.holder(id) is None, "remove() ends the lease.")
        promise(memory.write(id, {}) == 1, "After a removal versions begin anew.")
