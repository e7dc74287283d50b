"""The command that copies machines from one memory to another."""

import os
import pty
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any
from unittest.mock import patch

import pytest
from django.core.management import CommandError, call_command

from machine_memory import BaseMachineMemory, LockDenied, Metadata, SimpleMachineMemory, WriteError, memories
from machine_memory.management import copying
from machine_memory.management.copying import Comparing, Copying, parents_first
from tests import servers
from tests.conftest import Worker, aliases, in_thread
from tests.contract.stores import DATABASES, Store, named
from tests.management.upgrading import told_to_end

IDS = ["a", "b", "c"]
TOMORROW = datetime(2100, 1, 1, 12, 30, 0, 123456, UTC)


def pair(*names: str) -> Any:
    absent = [f"{name}: {servers.missing[name]}" for name in names if name in servers.missing]
    databases = [alias for name in names if name in DATABASES for alias in aliases(name)]
    marks = [
        pytest.mark.skipif(bool(absent), reason=", ".join(absent)),
        pytest.mark.django_db(transaction=True, databases=databases),
    ]
    return pytest.param(names, marks=marks, id=" to ".join(names))


PAIRS = [
    pair("redis", "postgresql"),
    pair("redis as the least user", "mariadb"),
    pair("sqlite", "redis cluster"),
    pair("postgresql", "sqlite"),
    pair("mariadb", "postgresql"),
    pair("redis cluster", "redis"),
]


@pytest.fixture
def ends(request: pytest.FixtureRequest) -> Iterator[list[Store]]:
    """The stores of the source and of the target."""
    request.getfixturevalue("transactional_db")
    stores = [named(name) for name in request.param]
    yield stores
    for store in stores:
        store.close()


every_pair = pytest.mark.parametrize("ends", PAIRS, indirect=True)
one_pair = pytest.mark.parametrize("ends", [pair("sqlite", "redis")], indirect=True)


def run(ends: list[Store], *arguments: str, **options: Any) -> str:
    output = StringIO()
    source, target = (store.alias for store in ends)
    call_command("machine_memory_copy", "--from", source, "--to", target, *arguments, stdout=output, **options)
    return output.getvalue().removeprefix(f"{source} to {target}: ")


def failure(ends: list[Store], *arguments: str) -> str:
    with pytest.raises(CommandError) as failed:
        run(ends, *arguments)
    return str(failed.value)


def copied(source: BaseMachineMemory, target: BaseMachineMemory, size: int = 100, **options: Any) -> Copying:
    work = Copying(source, target, None, **{"wait": 0.0, "dry_run": False, **options})
    work.run(size, lambda seen: None)
    return work


def compared(source: BaseMachineMemory, target: BaseMachineMemory) -> dict[str, str]:
    work = Comparing(source, target, None)
    work.run(2, lambda seen: None)
    return work.wrong


def written() -> SimpleMachineMemory:
    memory = SimpleMachineMemory()
    for number, id in enumerate(IDS):
        memory.write(id, {"n": number})
    return memory


@every_pair
class TestEachPair:
    def test_all_that_is_known_of_a_machine_is_kept(self, ends: list[Store]) -> None:
        source, target = (memories[store.alias] for store in ends)
        source.write("z-parent", {"b": 1.50, "a": [1e30, -0.0]}, metadata=Metadata(status="new", source="shop"))
        source.write("child é😀", {}, metadata=Metadata(parent="z-parent", initiator="clerk"), wake_at=timedelta(0))
        source.write("grandchild", {}, metadata=Metadata(parent="child é😀"), wake_at=TOMORROW)
        with source.claim(ttl=2):
            pass
        for _ in range(3):
            source.write("z-parent", {"b": 1.50, "a": [1e30, -0.0]})

        assert run(ends, "--batch-size", "1") == "copied 3 machines.\n"
        assert run(ends, "--verify") == "compared 3 machines.\n"
        assert run(ends) == "copied 0 machines, passed over 3 that are there.\n"
        records = [(source.record(one.id), target.record(one.id)) for one in source.find()]
        assert len(records) == 3
        for before, after in records:
            assert before is not None and after is not None
            assert list(after.data) == list(before.data)
            times = [abs(after.created_at - before.created_at), abs(after.written_at - before.written_at)]
            assert max(times) < timedelta(milliseconds=1)
            same = {name: getattr(before, name) for name in ("fence", "created_at", "written_at")}
            assert after.fence >= before.fence
            assert replace(after, **same) == before
        assert target.tree("z-parent") == source.tree("z-parent") == ["child é😀", "grandchild", "z-parent"]
        assert list(source.held_locks()) == list(target.held_locks()) == []
        ends[1].wait_until(lambda: _claimed(target) == [("child é😀", 2)])

    def test_nothing_is_lost_while_workers_go_on(self, ends: list[Store], monkeypatch: pytest.MonkeyPatch) -> None:
        source, target = (memories[store.alias] for store in ends)
        ids = [f"m{number}" for number in range(8)]
        for id in ids:
            source.write(id, {"n": 0})
        stop, worked, counted = threading.Event(), threading.Event(), dict.fromkeys(ids, 0)
        monkeypatch.setattr(copying, "PAUSE", 0.01)

        def work() -> None:
            while not stop.is_set():
                for id in ids:
                    with suppress(LockDenied), source.lease(id, wait=1) as lease:
                        lease.commit({"n": lease.data["n"] + 1})
                        counted[id] += 1
                        worked.set()

        with in_thread(work):
            try:
                for _ in range(2):
                    worked.clear()
                    assert worked.wait(10)
                    run(ends, "--batch-size", "2", "--wait", "20s")
            finally:
                stop.set()
        run(ends)
        assert run(ends, "--verify") == "compared 8 machines.\n"
        assert {id: (target.read(id) or {})["n"] for id in ids} == counted
        assert list(source.held_locks()) == []

    def test_what_was_interrupted_is_resumed(self, ends: list[Store]) -> None:
        source, target = (memories[store.alias] for store in ends)
        for number in range(9):
            source.write(f"m{number}", {"n": number})
        work = Copying(source, target, None, wait=0.0, dry_run=False)

        def interrupt(seen: int) -> None:
            if seen >= 4:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            work.run(2, interrupt)
        assert work.copied == 4
        ends[0].wait_until(lambda: not list(source.held_locks()))
        assert run(ends, "--dry-run") == "would copy 5 machines, passed over 4 that are there.\n"
        assert run(ends) == "copied 5 machines, passed over 4 that are there.\n"
        assert run(ends, "--verify") == "compared 9 machines.\n"

    def test_a_batch_costs_few_statements_however_large_it_is(self, ends: list[Store]) -> None:
        source = memories[ends[0].alias]
        few, many = ([f"{name}{number:03}" for number in range(size)] for name, size in (("few-", 3), ("many-", 30)))
        for id in (*few, *many):
            source.write(id, {}, wake_at=TOMORROW)
        run(ends, "--prefix", "many-000")  # What is asked once.
        figures = []
        for prefix in ("few-", "many-"):
            with ends[0].asked() as reading, ends[1].asked() as writing:
                run(ends, "--prefix", prefix)
            figures.append(len(reading) + len(writing))
        assert figures[1] <= figures[0] + 3, "the nodes of a cluster, none of which has any of a few"


def _claimed(memory: BaseMachineMemory) -> list[tuple[str, int]]:
    with memory.claim() as due:
        return [(lease.id, lease.attempts) for lease in due]


@one_pair
class TestCommand:
    @pytest.fixture
    def source(self, ends: list[Store]) -> BaseMachineMemory:
        memory = memories[ends[0].alias]
        for number, id in enumerate(IDS):
            memory.write(id, {"n": number})
        return memory

    def test_a_dry_run_copies_nothing(self, ends: list[Store], source: BaseMachineMemory) -> None:
        fences = [found.fence for found in source.find()]
        assert run(ends, "--dry-run") == "would copy 3 machines.\n"
        assert ends[1].count() == 0
        assert [found.fence for found in source.find()] == fences

    def test_only_those_of_a_prefix(self, ends: list[Store], source: BaseMachineMemory) -> None:
        assert run(ends, "--prefix", "b") == "copied 1 machines.\n"
        assert run(ends, "--verify", "--prefix", "b") == "compared 1 machines.\n"
        assert run(ends, verbosity=0) == ""

    def test_what_somebody_holds_is_said_and_the_others_are_copied(
        self, ends: list[Store], source: BaseMachineMemory
    ) -> None:
        worker = Worker(source)
        worker.lock("b")
        said = failure(ends)
        assert said == "1 machines were not copied\n'b': Somebody holds it at the source."
        assert ends[1].count() == 2
        worker.unlock("b")
        assert run(ends) == "copied 1 machines, passed over 2 that are there.\n"

    def test_many_are_not_all_named(self, ends: list[Store], source: BaseMachineMemory) -> None:
        ids = [f"m{number:02}" for number in range(25)]
        for id in ids:
            source.write(id, {})
        with Worker(source).leases(ids):
            said = failure(ends).splitlines()
        assert said[0] == "25 machines were not copied"
        assert (len(said), said[-1]) == (22, "and 5 more")

    def test_what_differs_is_named(self, ends: list[Store], source: BaseMachineMemory) -> None:
        target = memories[ends[1].alias]
        run(ends)
        source.write("a", {"n": 5}, metadata=Metadata(status="done"), wake_at=TOMORROW)
        target.cleanup("b")
        target.write("d", {})
        said = failure(ends, "--verify").splitlines()
        assert said[0] == "3 machines differ"
        assert said[1] == "'a': It differs in version, status, written_at, state, wake_at."
        assert said[2] == "'b': It is not at the target."
        assert said[3] == "'d': It is at the target alone: was it removed at the source?"

    @pytest.mark.parametrize("wait", ["0.001s", timedelta(milliseconds=1), 0.001])
    def test_it_can_be_called_with_a_wait_as_in_a_shell_or_in_seconds(
        self, ends: list[Store], source: BaseMachineMemory, wait: Any
    ) -> None:
        with Worker(source).leases(["a"]), pytest.raises(CommandError, match="1 machines were not copied"):
            run(ends, wait=wait)

    def test_it_can_be_called_in_any_thread(self, ends: list[Store], source: BaseMachineMemory) -> None:
        assert in_thread(lambda: run(ends)).result() == "copied 3 machines.\n"

    def test_where_it_is_told_to_end_it_gives_back_what_it_holds(
        self, ends: list[Store], source: BaseMachineMemory
    ) -> None:
        with patch.object(Copying, "_adopt", side_effect=told_to_end), pytest.raises(SystemExit) as ended:
            run(ends)
        assert ended.value.code == 143
        assert list(source.held_locks()) == []
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    def test_where_a_store_fails_it_says_how_far_it_got(self, ends: list[Store], source: BaseMachineMemory) -> None:
        with patch.object(Copying, "_adopt", side_effect=WriteError("The store failed.")):
            said = failure(ends)
        assert said == "The store failed. Until then: copied 0 machines. Run it again for the rest."
        assert list(source.held_locks()) == []

    def test_progress_is_told_by_lines_where_there_is_no_terminal(
        self, ends: list[Store], source: BaseMachineMemory
    ) -> None:
        errors = StringIO()
        run(ends, verbosity=2, stderr=errors)
        assert errors.getvalue() == "default: 3 machines so far\n"

    def test_progress_is_a_bar_on_a_terminal(self, ends: list[Store], source: BaseMachineMemory) -> None:
        reader, writer = pty.openpty()
        with os.fdopen(reader, "rb", 0) as terminal, os.fdopen(writer, "w") as errors:
            run(ends, "--batch-size", "2", stderr=errors)
            errors.flush()
            shown = ""
            while not shown.endswith("\n"):
                shown += terminal.read(1000).decode()
        assert shown == f"\rdefault [{'#' * 20}{'.' * 10}] 2 of 3\rdefault [{'#' * 30}] 3 of 3\r\n"

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (["--to", "redis"], "the following arguments are required: --from"),
            (["--from", "nowhere", "--to", "redis"], "MACHINE_MEMORIES['nowhere'] is missing"),
            (["--from", "simple", "--to", "redis"], "The memory 'simple' is in one process alone: this command has"),
            (["--from", "redis", "--to", "simple"], "and what it copied there would end with it"),
            (["--from", "default", "--to", "default"], "are the same machines, in database 'default': name two places"),
            (["--from", "redis", "--to", "default", "--batch-size", "0"], "--batch-size must be a positive int up to"),
            (["--from", "redis", "--to", "default", "--prefix", ""], "--prefix must not be empty"),
            (["--from", "redis", "--to", "default", "--wait", "long"], "--wait must be a number with s, m, h, d or w"),
            (["--from", "redis", "--to", "default", "--verify", "--dry-run"], "not allowed with argument"),
        ],
    )
    def test_what_is_wrong_is_said(self, ends: list[Store], arguments: list[str], sentence: str) -> None:
        with pytest.raises(CommandError) as refused:
            call_command("machine_memory_copy", *arguments)
        assert sentence in str(refused.value)


class TestMachinery:
    def test_what_is_written_after_it_was_copied_is_copied_by_the_next_run(self) -> None:
        source, target = written(), SimpleMachineMemory()
        work = Copying(source, target, None, wait=0.0, dry_run=False)
        work.run(1, lambda seen: source.write(IDS[seen - 1], {"n": "later"}))

        assert compared(source, target).keys() == set(IDS)
        assert copied(source, target).copied == 3
        assert compared(source, target) == {}

    def test_a_claim_after_the_copy_is_copied_by_the_next_run(self) -> None:
        source, target = SimpleMachineMemory(), SimpleMachineMemory()
        source.write("a", {}, wake_at=timedelta(0))
        copied(source, target)
        with source.claim(ttl=60):
            pass
        assert compared(source, target) == {"a": "It differs in fence, wake_at, attempts."}
        assert copied(source, target).copied == 1
        assert compared(source, target) == {}

    def test_what_is_held_is_waited_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        source, target = written(), SimpleMachineMemory()
        worker, pauses = Worker(source), list[float]()

        def pause(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 2:
                worker.unlock("b")

        monkeypatch.setattr("machine_memory.management.copying.time.sleep", pause)
        worker.lock("b")
        work = copied(source, target, wait=60.0)
        assert (work.copied, work.wrong, len(pauses)) == (3, {}, 2)

    def test_it_waits_no_longer_than_it_may(self) -> None:
        source = written()
        Worker(source).lock("b")
        work = copied(source, SimpleMachineMemory(), wait=0.01)
        assert (work.copied, work.wrong) == (2, {"b": "Somebody holds it at the source."})

    @pytest.mark.parametrize("size", [1, 2, 100])
    def test_parents_come_before_their_children(self, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
        source, target = SimpleMachineMemory(), SimpleMachineMemory()
        parents = {
            "a": "y",
            "b": "a",
            "c": "unknown",
            "y": "m",
            "m": "z",
            "z": None,
            "loop-1": "loop-2",
            "loop-2": "loop-1",
        }
        for id, parent in parents.items():
            source.write(id, {}, metadata=Metadata(parent=parent))
        order: list[str] = []
        adopt = target.store.adopt

        def adopting(machines: Any) -> Any:
            order.extend(machine.id for machine in machines)
            return adopt(machines)

        monkeypatch.setattr(target.store, "adopt", adopting)
        work = copied(source, target, size)
        assert sorted(order) == sorted(parents)
        assert (work.copied, work.passed, work.seen, work.wrong) == (8, 0, 8, {})
        for id in ("a", "b", "y", "m"):
            assert order.index(parents[id] or "") < order.index(id)
        assert compared(source, target) == {}

    def test_parents_that_are_not_asked_for_stay(self) -> None:
        source, target = SimpleMachineMemory(), SimpleMachineMemory()
        source.write("a-1", {}, metadata=Metadata(parent="b-1"))
        source.write("b-1", {})
        work = Copying(source, target, "a-", wait=0.0, dry_run=False)
        work.run(100, lambda seen: None)
        assert [found.id for found in target.find()] == ["a-1"]

    def test_where_the_target_is_newer_it_is_left_alone(self) -> None:
        source, target = written(), SimpleMachineMemory()
        target.write("b", {"by": "another"})
        target.write("b", {"by": "another"})
        work = copied(source, target)
        assert work.wrong == {"b": "The target is newer, at version 2, and the source at 1: it was left alone."}
        assert (work.copied, target.read("b")) == (2, {"by": "another"})

    def test_what_changes_at_the_target_meanwhile_is_left_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        source, target = written(), SimpleMachineMemory()
        adopt, worker = target.store.adopt, Worker(target)

        def late(machines: Any) -> Any:
            worker.lock("a")
            for _ in range(2):
                target.write("b", {"by": "another"})
            adopt([machine for machine in machines if machine.id == "c"])
            return adopt(machines)

        monkeypatch.setattr(target.store, "adopt", late)
        work = copied(source, target)
        assert (work.copied, work.passed) == (0, 1)
        assert work.wrong["a"].endswith(" holds it at the target.")
        assert work.wrong["b"].startswith("The target is newer, at version 2")

    def test_what_was_locked_there_for_a_moment_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        source, target = written(), SimpleMachineMemory()
        adopt, worker = target.store.adopt, Worker(target)

        def meeting(machines: Any) -> Any:
            worker.lock("b")
            adopted = adopt(machines)
            target.store.force_release("b", fence=None)
            return adopted

        monkeypatch.setattr(target.store, "adopt", meeting)
        work = copied(source, target)
        assert work.wrong == {"b": "It was in use at the target just then: run it again."}
        monkeypatch.undo()
        assert copied(source, target).copied == 1

    def test_what_the_target_would_refuse_of_a_writer_is_said(self) -> None:
        source, target = written(), SimpleMachineMemory(max_data_bytes=40, max_data_depth=2)
        source.write("deep", {"a": {"b": {}}})
        source.write("large", {"a": "x" * 40})
        machines: Any = source.store
        machines._machines["x\0"] = machines._machines["a"]
        source.write("child", {}, metadata=Metadata(parent="y"))
        machines._machines["child"].metadata = Metadata(parent="y\0")
        machines._machines["a"].metadata = Metadata(status="x" * 300)
        machines._machines["b"].data = "[1]"
        work = copied(source, target)

        assert [found.id for found in target.find()] == ["c"]
        assert work.wrong["deep"] == "data['a']['b'] is nested deeper than 2 levels."
        assert work.wrong["large"].startswith("data must be at most 40 bytes as JSON")
        assert work.wrong["x\0"].startswith("id must not contain U+0000")
        assert work.wrong["child"].startswith("parent must not contain U+0000")
        assert work.wrong["a"].startswith("status must be at most 255 characters, not 300")
        assert work.wrong["b"].startswith("The state of 'b' is a list, not a JSON object")

    def test_what_was_removed_since_it_was_listed_stays_so(self) -> None:
        source, target = written(), SimpleMachineMemory()
        work = Copying(source, target, None, wait=0.0, dry_run=False)
        work.run(1, lambda seen: source.cleanup("c"))
        machines: Any = source.store
        assert set(machines._machines) == {"a", "b"}
        assert [found.id for found in target.find()] == ["a", "b"]

    def test_what_is_removed_while_it_is_compared_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        source, target = written(), SimpleMachineMemory()
        copied(source, target)
        export = target.store.export
        monkeypatch.setattr(target.store, "export", lambda ids: [one for one in export(ids) if one.id != "b"])
        assert compared(source, target) == {"b": "It was removed meanwhile."}

    def test_large_states_are_stored_in_several_steps(self, monkeypatch: pytest.MonkeyPatch) -> None:
        source, target = SimpleMachineMemory(), SimpleMachineMemory()
        for id in IDS:
            source.write(id, {"text": "x" * 600_000})
        steps: list[int] = []
        adopt = target.store.adopt

        def adopting(machines: Any) -> Any:
            steps.append(len(machines))
            return adopt(machines)

        monkeypatch.setattr(target.store, "adopt", adopting)
        assert copied(source, target).copied == 3
        assert steps == [1, 1, 1]

    def test_an_order_of_one_is_that_one(self) -> None:
        source = written()
        assert [one.id for one in parents_first(source.store.export(IDS))] == IDS
