"""The command that upgrades machines at rest to the present shape of their states."""

import os
import pty
import signal
from datetime import timedelta
from io import StringIO
from typing import Any
from unittest.mock import patch

import pytest
from django.core.management import CommandError, call_command

from machine_memory import BaseMachineMemory, LockLost, SimpleMachineMemory, WriteError, memories
from machine_memory.core.batch import Batch
from machine_memory.management.upgrading import Upgrading
from tests.conftest import Worker, databases, redis_servers
from tests.contract.stores import Store
from tests.management.upgrading import Order, in_cents, orders, told_to_end

ORDERS = "tests.management.upgrading.orders"
IDS = ["a", "b", "c"]

stores = pytest.mark.parametrize(
    "shared_store", [*databases("sqlite", "postgresql", forms=("",)), *redis_servers()[:1]], indirect=True
)
sqlite = pytest.mark.parametrize("shared_store", databases("sqlite", forms=("",)), indirect=True)


def run(*arguments: str, **options: Any) -> str:
    output = StringIO()
    call_command("machine_memory_upgrade", ORDERS, *arguments, stdout=output, **options)
    return output.getvalue()


@pytest.fixture
def memory(shared_store: Store) -> Any:
    """The memory of the settings that has the machines of the store."""
    memory = memories[shared_store.alias]
    for number, id in enumerate(IDS):
        memory.write(id, {"total": number, "status": "new"})
    memory.typed(Order, shape=2, upgrades={1: in_cents}).write("upgraded", Order(5))
    return memory


@stores
class TestEachStore:
    def test_what_is_not_of_the_present_shape_is_upgraded_and_nothing_else_is_written(
        self, shared_store: Store, memory: BaseMachineMemory
    ) -> None:
        alias = shared_store.alias

        said = run("--memory", alias, "--dry-run")
        assert said == f"{alias}: would upgrade 3 machines to shape 2.\n"
        assert memory.read("b") == {"total": 1, "status": "new"}
        assert run("--memory", alias, "--batch-size", "2") == f"{alias}: upgraded 3 machines to shape 2.\n"
        assert [memory.read(id) for id in IDS] == [{"shape": 2, "total": 100 * n, "status": "new"} for n in range(3)]
        assert [found.version for found in memory.find()] == [2, 2, 2, 1]
        assert run("--memory", alias) == f"{alias}: upgraded 0 machines to shape 2.\n"
        assert list(memory.held_locks()) == []

    def test_timers_stay_as_they_are(self, shared_store: Store, memory: BaseMachineMemory) -> None:
        memory.write("a", {"total": 1}, wake_at=timedelta(0))
        memory.write("b", {"total": 1}, wake_at=timedelta(hours=1))
        run("--memory", shared_store.alias)
        with memory.claim() as due:
            assert [(lease.id, lease.data["shape"]) for lease in due] == [("a", 2)]

    def test_what_somebody_holds_is_passed_over_and_said(self, shared_store: Store, memory: BaseMachineMemory) -> None:
        alias, worker = shared_store.alias, Worker(memory)
        worker.lock("b")

        said = run("--memory", alias)
        assert said == f"{alias}: upgraded 2 machines to shape 2, 1 are held and were passed over: 'b'.\n"
        assert memory.read("b") == {"total": 1, "status": "new"}
        worker.unlock("b")
        assert run("--memory", alias) == f"{alias}: upgraded 1 machines to shape 2.\n"

    def test_only_those_that_are_asked_for(self, shared_store: Store, memory: BaseMachineMemory) -> None:
        alias = shared_store.alias
        memory.write("done", {"total": 1, "status": "done"})

        assert run("--memory", alias, "--status", "done") == f"{alias}: upgraded 1 machines to shape 2.\n"
        assert run("--memory", alias, "--prefix", "b") == f"{alias}: upgraded 1 machines to shape 2.\n"
        assert run("--memory", alias, "--status", "new", verbosity=0) == ""


@sqlite
class TestCommand:
    def test_without_an_alias_it_is_for_the_memory_of_the_type(self, shared_store: Store, memory: Any) -> None:
        assert run() == "default: upgraded 3 machines to shape 2.\n"
        assert orders.read("c") == Order(200)

    def test_what_fails_is_named_and_does_not_keep_the_others(self, shared_store: Store, memory: Any) -> None:
        memory.write("a", {"status": "a secret"})
        memory.write("b", {"shape": 3})
        output = StringIO()
        with pytest.raises(CommandError) as failed:
            call_command("machine_memory_upgrade", ORDERS, stdout=output)
        assert output.getvalue() == "default: upgraded 1 machines to shape 2.\n"
        first, *others = str(failed.value).splitlines()
        assert first == "default: 2 machines failed"
        assert others[0].startswith("'a': The upgrade of 'a' from shape 1 to 2 of Order raised KeyError.")
        assert others[1].startswith("'b': The state of 'b' has shape 3, and this code knows Order up to 2")

    def test_where_the_store_fails_it_says_how_far_it_got(self, shared_store: Store, memory: Any) -> None:
        failing = patch.object(Upgrading, "_upgrade", side_effect=WriteError("The store failed."))
        with failing, pytest.raises(CommandError) as failed:
            run()
        assert str(failed.value) == "The store failed. 0 machines were upgraded until then; run it again for the rest."

    def test_where_it_is_told_to_end_it_gives_back_what_it_holds(self, shared_store: Store, memory: Any) -> None:
        with patch.object(Batch, "commit", side_effect=told_to_end), pytest.raises(SystemExit) as ended:
            run()
        assert ended.value.code == 143
        assert list(memory.held_locks()) == []
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    def test_progress_is_told_by_lines_where_there_is_no_terminal(self, shared_store: Store, memory: Any) -> None:
        errors = StringIO()
        run(verbosity=2, stderr=errors)
        assert errors.getvalue() == "default: 4 machines so far\n"

    def test_progress_is_a_bar_on_a_terminal(self, shared_store: Store, memory: Any) -> None:
        reader, writer = pty.openpty()
        with os.fdopen(reader, "rb", 0) as terminal, os.fdopen(writer, "w") as errors:
            run("--batch-size", "2", stderr=errors)
            errors.flush()
            shown = ""
            while not shown.endswith("\n"):
                shown += terminal.read(1000).decode()
        assert shown == f"\rdefault [{'#' * 15}{'.' * 15}] 2 of 4\rdefault [{'#' * 30}] 4 of 4\r\n"

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (["tests.management.upgrading.nothing"], 'PATH: Module "tests.management.upgrading" does not define'),
            (["nowhere.orders"], "PATH: No module named 'nowhere'"),
            (["tests.management.upgrading.Order"], "PATH must be the dotted path of a typed memory whose states have"),
            (["tests.management.upgrading.without_shape"], "PATH must be the dotted path of a typed memory whose"),
            (["machine_memory.memory"], "PATH must be the dotted path of a typed memory whose states have a shape"),
            ([ORDERS, "--memory", "nowhere"], "MACHINE_MEMORIES['nowhere'] is missing"),
            ([ORDERS, "--memory", ""], "MACHINE_MEMORIES[''] is missing"),
            ([".orders"], "PATH must be a dotted path from the top, not '.orders'"),
            (["..orders"], "PATH must be a dotted path from the top, not '..orders'"),
            ([ORDERS, "--batch-size", "0"], "--batch-size must be a positive int up to 10000, not 0"),
            ([ORDERS, "--prefix", ""], "prefix must not be empty"),
            ([], "the following arguments are required: PATH"),
        ],
    )
    def test_what_is_wrong_is_said(self, shared_store: Store, arguments: list[str], sentence: str) -> None:
        with pytest.raises(CommandError) as refused:
            call_command("machine_memory_upgrade", *arguments)
        assert sentence in str(refused.value)


class TestMachinery:
    def test_one_that_was_upgraded_meanwhile_is_left_as_it_is(self) -> None:
        memory = SimpleMachineMemory()
        typed: Any = memory.typed(Order, shape=2, upgrades={1: in_cents})
        memory.write("a", {"total": 1})
        upgrading = Upgrading(memory, typed._shape, dry_run=False)
        leases = memory.leases

        def after_another(*args: Any, **kwargs: Any) -> Any:
            typed.write("a", Order(7))
            return leases(*args, **kwargs)

        with patch.object(memory, "leases", after_another):
            upgrading.run(["a", "gone"], 100, lambda seen: None)
        assert (upgrading.seen, upgrading.upgraded, upgrading.held, upgrading.failed) == (2, 0, [], {})
        assert typed.read("a") == Order(7)
        assert list(memory.held_locks()) == []

    def test_what_the_store_refuses_is_told_of_that_machine(self) -> None:
        memory = SimpleMachineMemory()

        def evicting(state: dict[str, Any]) -> dict[str, Any]:
            memory.force_unlock("b")
            return state

        typed: Any = memory.typed(Order, shape=2, upgrades={1: evicting})
        for id in IDS:
            memory.write(id, {"total": 1})
        upgrading = Upgrading(memory, typed._shape, dry_run=False)
        upgrading.run(IDS, 100, lambda seen: None)

        assert (upgrading.upgraded, upgrading.held) == (2, [])
        assert isinstance(upgrading.failed["b"], LockLost)
        assert memory.read("b") == {"total": 1}

    def test_a_corrupt_state_is_told_of_that_machine(self) -> None:
        memory = SimpleMachineMemory()
        typed: Any = memory.typed(Order, shape=2, upgrades={1: in_cents})
        for id in IDS:
            memory.write(id, {"total": 1})
        store: Any = memory.store
        store._machines["a"].data = "[1]"
        upgrading = Upgrading(memory, typed._shape, dry_run=False)
        upgrading.run(IDS, 100, lambda seen: None)

        assert upgrading.upgraded == 2
        assert str(upgrading.failed["a"]).startswith("The state of 'a' is a list, not a JSON object")
