"""The purges as commands and tasks; many machines at once; and purges in the midst of work."""

import os
import pty
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings

from machine_memory import (
    BaseMachineMemory,
    InvalidConfiguration,
    InvalidTTL,
    Metadata,
    memories,
    tasks,
)
from machine_memory.backends.simple import SimpleStore
from machine_memory.core.validation import duration
from tests.actor import Actor
from tests.conftest import Worker, databases, redis_servers
from tests.contract.stores import Store


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("90", 90),
        ("90s", 90),
        ("1.5 m", 90),
        ("1h", 3600),
        ("30d", 2_592_000),
        (" 2w ", 1_209_600),
    ],
)
def test_a_duration_is_a_number_with_a_unit(text: str, seconds: float) -> None:
    assert duration(text, "--idle") == seconds


@pytest.mark.parametrize(
    "text", ["", "d", "-1d", "1 month", "1e3", "nan", "1h30m", "٣d", "0x10", "1_000", "9" * 400, "30D"]
)
def test_nonsense_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(InvalidTTL, match="--idle must be a number with s, m, h, d or w, such as 90s, 1h or 30d, not '"):
        duration(text, "--idle")


def test_so_is_an_age_beyond_all_reason() -> None:
    with pytest.raises(InvalidTTL, match="--idle must be between 0 and 3162240000 seconds"):
        duration("99999999999w", "--idle")


def run(*args: str, **options: Any) -> str:
    output = StringIO()
    call_command(*args, stdout=output, **options)
    return output.getvalue()


TURNS = 50 if os.environ.get("MACHINE_MEMORY_LARGE") else 20

one_of_each = pytest.mark.parametrize("shared_store", [*databases(forms=("",)), *redis_servers()[:1]], indirect=True)
"""Each kind of store once: commands, tasks and processes use the memory of the settings, which has one form."""


def called(task: Any, **options: Any) -> Any:
    return getattr(task, "func", task)(**options)


@pytest.fixture
def memory(shared_store: Store) -> Any:
    """The memory of the settings that has the machines of the store."""
    return memories[shared_store.alias]


@one_of_each
class TestCommands:
    @pytest.fixture(autouse=True)
    def left_behind(self, shared_store: Store, memory: Any) -> None:
        worker = Worker(shared_store.memory)
        for id in ("dead", "live"):
            memory.write(id, {"id": id}, metadata=Metadata(status="done"))
            worker.lock(id, ttl=600)
        worker.lock("unwritten", ttl=600)
        for id in ("dead", "unwritten"):
            shared_store.expire(id, ago=3600)
        memory.write("old", {"id": "old"}, metadata=Metadata(status="done"))
        shared_store.age("old", 3600)

    def test_expired_locks_are_purged(self, shared_store: Store) -> None:
        alias = shared_store.alias

        said = run("purge_expired_locks", "--memory", alias, "--dry-run")
        assert said == f"{alias}: would end 1 expired leases, would delete 1 machines without state.\n"
        said = run("purge_expired_locks", "--memory", alias, "--older-than", "2h")
        assert said == f"{alias}: ended 0 expired leases, deleted 0 machines without state.\n"
        said = run("purge_expired_locks", "--memory", alias, "--older-than", "30m", "--batch-size", "1")
        assert said == f"{alias}: ended 1 expired leases, deleted 1 machines without state.\n"
        assert shared_store.lease_of("live")
        assert run("purge_expired_locks", "--memory", alias, verbosity=0) == ""

    def test_machines_are_purged(self, shared_store: Store, memory: Any) -> None:
        alias, options = shared_store.alias, ["--status", "done", "--idle", "30m"]

        said = run("purge_machines", "--memory", alias, *options, "--dry-run")
        assert said in [f"{alias}: would delete 1 machines with {size} bytes of state.\n" for size in (12, 13)]
        assert run("purge_machines", "--memory", alias, *options) == f"{alias}: deleted 1 machines.\n"
        assert memory.read("old") is None
        assert memory.read("dead") == {"id": "dead"}

    def test_progress_is_told_by_lines_where_there_is_no_terminal(self, shared_store: Store) -> None:
        errors = StringIO()
        run("purge_expired_locks", "--memory", shared_store.alias, verbosity=2, stderr=errors)

        assert errors.getvalue() == f"{shared_store.alias}: 2 machines so far\n"

    def test_progress_is_a_bar_on_a_terminal(self, shared_store: Store) -> None:
        reader, writer = pty.openpty()
        with os.fdopen(reader, "rb", 0) as terminal, os.fdopen(writer, "w") as errors:
            run("purge_expired_locks", "--memory", shared_store.alias, stderr=errors)
            errors.flush()
            shown = ""
            while not shown.endswith("\n"):
                shown += terminal.read(1000).decode()
        assert shown == f"\r{shared_store.alias} [{'#' * 30}] 2 of 2\r\n"

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (["purge_expired_locks", "--older-than", "soon"], "--older-than must be a number with s, m, h, d or w"),
            (["purge_machines", "--status", "done", "--idle", "-1"], "--idle must be a number with s, m, h, d or w"),
            (["purge_machines", "--status", "done", "--idle", "x"], "--idle must be a number with s, m, h, d or w"),
            (["purge_machines", "--idle", "30d"], "the following arguments are required: --status"),
            (["purge_expired_locks", "--batch-size", "0"], "batch_size must be a positive int up to 10000, not 0"),
            (["purge_expired_locks", "--memory", "nowhere"], "MACHINE_MEMORIES['nowhere'] is missing"),
        ],
    )
    def test_what_is_wrong_is_said(self, shared_store: Store, arguments: list[str], sentence: str) -> None:
        with pytest.raises(CommandError) as refused:
            run(*arguments)
        assert sentence in str(refused.value)

    def test_they_can_be_called_with_options_as_in_a_shell_or_in_numbers(self, shared_store: Store) -> None:
        alias = shared_store.alias

        for older_than in ("2h", 7200.0):
            said = run("purge_expired_locks", memory=alias, older_than=older_than)
            assert said == f"{alias}: ended 0 expired leases, deleted 0 machines without state.\n"
        assert run("purge_machines", memory=alias, status="done", idle="30m") == f"{alias}: deleted 1 machines.\n"
        with pytest.raises(CommandError, match="idle must be a number with s, m, h, d or w"):
            run("purge_machines", memory=alias, status="done", idle="soon")

    def test_as_tasks_they_do_the_same(self, shared_store: Store) -> None:
        alias = shared_store.alias

        assert called(tasks.purge_expired_locks, memory=alias, older_than="30m") == {"cleared": 1, "deleted": 1}
        assert called(tasks.purge_machines, memory=alias, status="done", idle="30m") == {"deleted": 1}


@pytest.mark.django_db(transaction=True)
def test_without_an_alias_each_memory_is_purged() -> None:
    simple = {"BACKEND": "machine_memory.backends.simple.SimpleMachineMemory"}
    with override_settings(MACHINE_MEMORIES={"default": {}, "fast": simple}):
        said = run("purge_expired_locks").splitlines()
        for alias in memories:
            memories[alias].write("old", {"status": "done"})
        assert called(tasks.purge_machines, status="done", idle="0") == {"deleted": 2}
        assert called(tasks.purge_expired_locks) == {"cleared": 0, "deleted": 0}
    assert [line.split(":")[0] for line in said] == ["default", "fast"]


@pytest.mark.parametrize(
    "command",
    [["purge_machines", "--status", "done", "--idle", "0"], ["purge_expired_locks"], ["machine_memory_reindex"]],
)
def test_an_empty_alias_names_no_memory_rather_than_each(command: list[str]) -> None:
    simple = {"BACKEND": "machine_memory.backends.simple.SimpleMachineMemory"}
    with override_settings(MACHINE_MEMORIES={"default": simple}):
        memories["default"].write("old", {"status": "done"})
        with pytest.raises(CommandError, match=r"^: MACHINE_MEMORIES\[''\] is missing. Configured: 'default'\.$"):
            call_command(*command, "--memory", "")
        assert memories["default"].read("old") == {"status": "done"}


@pytest.mark.parametrize("command", ["purge_expired_locks", "purge_machines"])
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        call_command(command, "--help")
    assert f"Example: manage.py {command} --" in capsys.readouterr().out


@one_of_each
@pytest.mark.timeout(300)
def test_in_a_storm_of_work_they_take_nothing_that_is_in_use(shared_store: Store) -> None:
    memory = shared_store.memory
    actors = [Actor(shared_store.alias) for _ in range(4)]
    try:
        for number, actor in enumerate(actors):
            actor.tell("storm", ["a", "b"], str(number), TURNS)
        purged = 0
        for actor in actors:
            while not actor.answers():
                memory.purge_expired_locks()
                purged += memory.purge_machines(status="done", idle=0).deleted
                if not shared_store.name.startswith("redis"):
                    purged += memory.purge_machines(status="done", idle=0, tree=True).deleted
            assert actor.answer() == TURNS
    finally:
        for actor in actors:
            actor.__exit__()
    assert [memory.read(id) for id in "ab"] == [{"n": 2 * TURNS}] * 2
    assert purged > 0
    assert list(memory.held_locks()) == []


class WithoutTrees(BaseMachineMemory):
    """A memory that cannot purge trees, as in Redis."""

    class Store(SimpleStore):
        def purge_machines(self, retention: Any, **options: Any) -> Any:
            raise InvalidConfiguration("no trees here")

    def __init__(self, **options: Any) -> None:
        super().__init__(self.Store(), **options)


def test_all_memories_have_their_turn_though_one_cannot() -> None:
    plain = {"BACKEND": "machine_memory.backends.simple.SimpleMachineMemory"}
    settings = {"one": plain, "deficient": {"BACKEND": f"{__name__}.WithoutTrees"}, "two": plain}
    output = StringIO()
    with override_settings(MACHINE_MEMORIES=settings):
        for alias in settings:
            memories[alias].write("a", {"status": "done"})
        with pytest.raises(CommandError, match=r"^deficient: no trees here$"):
            call_command("purge_machines", status="done", idle="0", tree=True, stdout=output)
        assert [memories[alias].read("a") for alias in settings] == [None, {"status": "done"}, None]
    assert output.getvalue() == "one: deleted 1 machines.\ntwo: deleted 1 machines.\n"


def test_so_they_have_as_tasks() -> None:
    plain = {"BACKEND": "machine_memory.backends.simple.SimpleMachineMemory"}
    settings = {"one": plain, "deficient": {"BACKEND": f"{__name__}.WithoutTrees"}, "two": plain}
    with override_settings(MACHINE_MEMORIES=settings):
        for alias in settings:
            memories[alias].write("a", {"status": "done"})
        with pytest.raises(ExceptionGroup, match="Some memories were not purged; the others are") as failure:
            called(tasks.purge_machines, status="done", idle="0", tree=True)
        assert [memories[alias].read("a") for alias in settings] == [None, {"status": "done"}, None]
    (error,) = failure.value.exceptions
    assert (str(error), error.__notes__) == ("no trees here", ["It was MACHINE_MEMORIES['deficient']."])
