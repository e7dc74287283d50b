"""The orchestrators that people use already: killed, denied, and refused as zombies, on a store that they share."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import django
import pytest
from celery.exceptions import Retry
from django.utils.module_loading import import_string
from statemachine.exceptions import TransitionNotAllowed
from transitions import MachineError

from example_project.orchestrators import with_celery, with_statemachine, with_transitions
from machine_memory import memory
from machine_memory.backends.database.clock import StoreTime
from machine_memory.models import MachineRecord
from machine_memory.testing import failing, reply_lost
from tests.actor import Actor, environment
from tests.conftest import Worker, databases
from tests.contract.stores import Store
from tests.redis.server import RedisServer, programs

ROOT = Path(__file__).parents[2]
STALLED = "tests.example.stalling.stalled"
on_sqlite = pytest.mark.parametrize("shared_store", databases("sqlite", forms=("",)), indirect=True)
PATHS = {name: f"example_project.orchestrators.{name}.advance" for name in ("with_statemachine", "with_transitions")}
EVENTS: dict[str, dict[str, tuple[str, ...]]] = {
    "with_statemachine": {"placed": (), "paid": ("pay", "1"), "cancelled": ("cancel", "2")},
    "with_transitions": {"placed": ("place",), "paid": ("pay",), "cancelled": ("cancel",)},
}


@pytest.fixture
def actors() -> Iterator[tuple[Actor, Actor]]:
    with Actor("default") as one, Actor("default") as other:
        yield one, other


@on_sqlite
@pytest.mark.parametrize("name", PATHS)
class TestOnAnOrder:
    @pytest.fixture(autouse=True)
    def placed(self, shared_store: Store, name: str) -> None:
        if event := EVENTS[name]["placed"]:
            import_string(PATHS[name])("a", *event)

    def test_a_second_worker_is_denied_and_a_zombie_refused(
        self, shared_store: Store, name: str, actors: tuple[Actor, Actor]
    ) -> None:
        zombie, other = actors
        zombie.tell("run", STALLED, PATHS[name], "a", *EVENTS[name]["paid"])
        zombie.wait_until_stopped()
        assert other("run", PATHS[name], "a", *EVENTS[name]["cancelled"]) == "LockDenied"
        shared_store.expire("a")
        assert other("run", PATHS[name], "a", *EVENTS[name]["cancelled"]) == "cancelled"
        zombie.resume()

        assert zombie.answer() == "LockLost"
        assert [record.id for record in memory.find(status="cancelled")] == ["a"]

    def test_a_worker_that_is_killed_has_done_nothing(
        self, shared_store: Store, name: str, actors: tuple[Actor, Actor]
    ) -> None:
        dead, other = actors
        dead.tell("run", STALLED, PATHS[name], "a", *EVENTS[name]["paid"])
        dead.wait_until_stopped()
        dead.kill()
        shared_store.expire("a")

        assert other("run", PATHS[name], "a", *EVENTS[name]["paid"]) == "paid"
        assert [record.id for record in memory.find(status="paid")] == ["a"]
        assert memory.holder("a") is None


@pytest.mark.django_db(transaction=True)
class TestStatemachine:
    def test_an_event_counts_once_however_often_it_comes(self) -> None:
        assert [with_statemachine.advance("a", "pay", "1") for _ in range(2)] == ["paid", "paid"]
        assert with_statemachine.advance("a", "ship", "2") == "shipped"
        record = memory.record("a")
        assert record and (record.version, record.status, record.data["events"]) == (2, "shipped", ["1", "2"])

    def test_what_does_not_fit_the_state_changes_nothing(self) -> None:
        with pytest.raises(TransitionNotAllowed):
            with_statemachine.advance("a", "ship", "1")
        assert memory.read("a") is None
        assert memory.holder("a") is None

    def test_what_is_done_elsewhere_can_be_told_by_the_event_and_the_fence(self) -> None:
        with_statemachine.advance("a", "pay", "1")
        record = memory.record("a")
        assert record and record.data["receipt"] == f"1 under {record.fence}"


@pytest.mark.django_db(transaction=True)
class TestTransitions:
    def late(self, *orders: str) -> None:
        assert MachineRecord.objects.filter(pk__in=orders).update(wake_at=StoreTime(-1)) == len(orders)

    def test_what_does_not_fit_the_state_changes_nothing(self) -> None:
        with pytest.raises(MachineError, match="Can't trigger event ship from state new!"):
            with_transitions.advance("a", "ship")
        assert memory.read("a") is None
        assert memory.holder("a") is None

    def test_what_nobody_pays_for_in_time_is_cancelled(self) -> None:
        for order in ("early", "paid", "unpaid", "in use"):
            with_transitions.advance(order, "place")
        with_transitions.advance("paid", "pay")
        self.late("unpaid", "in use")
        Worker(memory).lock("in use")

        assert with_transitions.cancel_unpaid() == ["unpaid"]
        found = {record.id: record.status for record in memory.find()}
        assert found == {"early": "placed", "paid": "paid", "unpaid": "cancelled", "in use": "placed"}
        assert with_transitions.cancel_unpaid() == []

    @on_sqlite
    def test_a_worker_that_is_killed_leaves_them_due(self, shared_store: Store, actors: tuple[Actor, Actor]) -> None:
        dead, other = actors
        with_transitions.advance("a", "place")
        self.late("a")
        dead.tell("run", STALLED, "example_project.orchestrators.with_transitions.cancel_unpaid")
        dead.wait_until_stopped()
        dead.kill()
        assert with_transitions.cancel_unpaid() == []
        shared_store.expire("a")
        self.late("a")

        assert other("run", "example_project.orchestrators.with_transitions.cancel_unpaid") == ["a"]


class CeleryWorker:
    """Celery's worker, with three processes, on a broker of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._log = folder, folder / "log"
        self._broker = RedisServer(programs()[-1])
        command = "-m celery -A tests.example.celery_worker worker -c 3 -l INFO --without-gossip --without-mingle"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, *command.split()],
                env={**environment("default"), "CELERY_BROKER_URL": self._broker.url, "LASTING": str(folder)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def __enter__(self) -> "CeleryWorker":
        return self

    def __exit__(self, *error: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._broker.close()

    def send(self, id: str, order: str, event: str, *, lasts: bool = False, **options: Any) -> None:
        if lasts:
            (self._folder / event).touch()
        with with_celery.app.connection_for_write(self._broker.url) as connection:
            with_celery.advance.apply_async((order, event), task_id=id, connection=connection, **options)

    def said(self, pattern: str) -> bool:
        return re.search(pattern, self._log.read_text()) is not None


def wait_for(done: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 60
    while not (found := done()):
        assert time.monotonic() < deadline, "it did not happen within a minute"
        time.sleep(0.05)
    return found


@on_sqlite
def test_celery_brings_back_what_was_killed_denied_or_too_slow(shared_store: Store, tmp_path: Path) -> None:
    with CeleryWorker(tmp_path) as worker:
        worker.send("killed", "a", "pay", lasts=True)
        worker.send("slow", "b", "cancel", lasts=True, soft_time_limit=1)
        holder: Any = wait_for(lambda: memory.holder("a"))
        worker.send("denied", "a", "pack")
        wait_for(lambda: worker.said(r"\[denied\] retry: Retry in [\d.]+s"))
        os.kill(int(holder.owner.split(":")[1]), signal.SIGKILL)
        wait_for(lambda: worker.said(r"\[slow\] retry: Retry in [\d.]+s"))
        wait_for(lambda: memory.read("b"))

        wait_for(lambda: len((memory.read("a") or {"done": []})["done"]) == 2)
        worker.send("killed", "a", "pay")
        worker.send("last", "b", "pay")
        wait_for(lambda: len((memory.read("b") or {"done": []})["done"]) == 2)
    assert memory.read("b") == {"state": "cancelled", "done": ["slow", "last"]}
    record = memory.record("a")
    assert record and (record.version, record.status, sorted(record.data["done"])) == (2, "paid", ["denied", "killed"])


@pytest.mark.django_db(transaction=True)
class TestCeleryWhereTheStoreFails:
    @pytest.fixture
    def retried(self, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
        retried: list[dict[str, Any]] = []

        def retry(**how: Any) -> Retry:
            retried.append(how)
            return Retry()

        monkeypatch.setattr(with_celery.advance, "retry", retry)
        return retried

    @pytest.mark.parametrize("what", ["locks", "writes"])
    def test_the_event_comes_again(self, retried: list[dict[str, Any]], what: Literal["locks", "writes"]) -> None:
        with failing(memory, what):
            assert with_celery.advance.apply(("a", "pay"), retries=3).state == "RETRY"
        assert 8 <= retried[0]["countdown"] <= 8 + with_celery.PAUSE
        assert memory.read("a") is None
        assert memory.holder("a") is None

    def test_what_was_written_all_the_same_is_not_done_again(self, retried: list[dict[str, Any]]) -> None:
        with reply_lost(memory, applied=True):
            assert with_celery.advance.apply(("a", "pay"), task_id="1").state == "RETRY"
        assert with_celery.advance.apply(("a", "pay"), task_id="1").result == "paid"
        assert memory.read("a") == {"state": "paid", "done": ["1"]}
        assert len(retried) == 1

    def test_a_denied_one_comes_again_after_a_ttl_where_nobody_can_tell_by_when(
        self, retried: list[dict[str, Any]]
    ) -> None:
        Worker(memory).lock("a")
        with failing(memory, "reads"):
            assert with_celery.advance.apply(("a", "pay")).state == "RETRY"
        assert with_celery.TTL <= retried[0]["countdown"] <= with_celery.TTL + with_celery.PAUSE


class TasksOfDjango:
    """A project whose tasks are in its database, and processes of it."""

    PREAMBLE = """
import django; django.setup()
from contextvars import Context
from django.core.management import call_command
from django.utils.timezone import now
from django_tasks_db.models import DBTaskResult
from example_project.orchestrators.with_django_tasks import advance, dispatch
from machine_memory import memory
from machine_memory.backends.database.clock import StoreTime
from machine_memory.models import MachineRecord
from machine_memory.testing import failing
from tests.example.stalling import stalled, work_off
def results(): print(sorted(str(result.return_value) for result in DBTaskResult.objects.successful()))
def expire(): MachineRecord.objects.update(lease_expires_at=StoreTime(-1), wake_at=StoreTime(-1))
"""

    def __init__(self, folder: Path) -> None:
        settings = {"DJANGO_SETTINGS_MODULE": "tests.example.django_tasks_settings"}
        self._environment = {**os.environ, **settings, "EXAMPLE_DATABASE": str(folder / "example.sqlite3")}

    def start(self, code: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "error", "-c", self.PREAMBLE + code]
        return subprocess.Popen(command, cwd=ROOT, env=self._environment, stdout=subprocess.PIPE, text=True)

    def run(self, code: str) -> list[str]:
        """Return what was printed."""
        process = self.start(code)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        return output.splitlines()


@pytest.mark.skipif(find_spec("django_tasks_db") is None, reason="django-tasks-db is not installed")
@pytest.mark.skipif(django.VERSION < (6, 0), reason="Django has tasks from 6.0 on")
def test_djangos_tasks_come_again_when_denied_or_failed_and_go_on_after_a_death(tmp_path: Path) -> None:
    project = TasksOfDjango(tmp_path)
    denied = project.run("""
call_command("migrate", verbosity=0)
other = Context()
other.run(memory.lock, "a")
for _ in range(2):
    advance.enqueue("a", "pay", "1")
work_off()
results()
later = DBTaskResult.objects.ready().model.objects.filter(run_after=memory.holder("a").expires_at)
print(later.count(), memory.read("a"))
other.run(memory.unlock, "a")
later.update(run_after=now())
work_off()
print(memory.read("a"), memory.record("a").version)
""")
    assert denied == ["['later', 'later']", "2 None", "{'state': 'paid', 'events': ['1']} 1"]
    failed = project.run("""
with failing(memory, "locks"):
    advance.enqueue("b", "cancel", "2")
    work_off()
later = DBTaskResult.objects.filter(status="READY", run_after__gt=now())
print(later.count(), memory.read("b"))
later.update(run_after=now())
work_off()
print(memory.read("b"))
""")
    assert failed == ["1 None", "{'state': 'cancelled', 'events': ['2']}"]

    stalling = "dispatch.enqueue(); stalled('tests.example.stalling.work_off'); results()"
    going_on = "expire(); dispatch.enqueue(); work_off(); print(memory.read('a')['state'])"
    dead = project.start(stalling)
    os.waitid(os.P_PID, dead.pid, os.WSTOPPED | os.WNOWAIT)
    dead.kill()
    dead.communicate()
    assert project.run(going_on) == ["packed"]
    zombie = project.start(stalling)
    os.waitid(os.P_PID, zombie.pid, os.WSTOPPED | os.WNOWAIT)
    assert project.run(going_on) == ["labelled"]
    zombie.send_signal(signal.SIGCONT)
    output, _ = zombie.communicate(timeout=60)
    assert "'too late'" in output
    assert project.run(f"{going_on}; {going_on}; print(memory.holder('a'), memory.record('a').version)") == [
        *["ready"] * 2,
        "None 4",
    ]
