"""MariaDB with several nodes that take writes: a machine has one holder, whichever node each of them is at."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connections

from machine_memory import DatabaseMachineMemory, LockError
from machine_memory.backends.database import doctor
from tests.clusters import galera
from tests.clusters.galera import Galera
from tests.clusters.processes import configured, wait_until
from tests.clusters.work import IDS, REPORT, Crew, Figures, repeated

if galera.missing:
    pytest.skip(f"galera: {galera.missing}", allow_module_level=True)
emptied = pytest.mark.django_db(transaction=True, databases=[galera.ALIAS])
LARGE = bool(os.environ.get("MACHINE_MEMORY_LARGE"))
SECONDS, TURNS = (5, 5) if LARGE else (1, 1)
"""Before and after what happens, and how often it does."""
SOON = 5
"""Seconds within which processes are at work again by themselves, once there is a node that takes work."""
WORKERS = 3


@pytest.fixture
def unguarded(django_db_blocker: Any) -> Iterator[None]:
    """Let a test have another alias of the cluster's."""
    with django_db_blocker.unblock():
        yield


@pytest.fixture
def work(cluster: Galera, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., Figures]:
    """Return what has several processes hold few machines, meanwhile something happens, and says what came of it."""

    def run(meanwhile: Callable[[], None] = lambda: None) -> Figures:
        with Crew(galera.ALIAS, tmp_path, WORKERS) as crew:
            wait_until(lambda: crew.is_at_work(0), "the first lease of each")
            time.sleep(SECONDS)
            meanwhile()
            done = time.monotonic()
            wait_until(lambda: crew.is_at_work(done), "the next lease of each", patience=SOON)
            recovered = time.monotonic() - done
            time.sleep(SECONDS)
            figures = crew.stop()
        REPORT[request.node.name] = f"all go on after {recovered:.1f} s; {figures.summary()}"
        return figures

    return run


def assert_that_nothing_was_lost(figures: Figures) -> None:
    assert len(figures.acknowledged) > 10, figures.errors
    assert (figures.doubles, figures.torn) == (0, 0)
    assert repeated(figures.granted) == []
    assert repeated(figures.acknowledged) == []
    memory = DatabaseMachineMemory(using=galera.ALIAS)
    for id in IDS:
        record = memory.record(id)
        assert record
        assert record.data == {"n": record.version}
        assert record.version >= max(version for known, version in figures.acknowledged if known == id)


@emptied
def test_a_machine_has_one_holder_whatever_the_node(work: Callable[..., Figures]) -> None:
    figures = work()
    assert_that_nothing_was_lost(figures)
    assert {error.split(" ")[0] for error in figures.errors} <= {"LockDenied", "WriteError"}


@emptied
def test_the_waits_of_a_session_are_as_before_where_statements_met(cluster: Galera) -> None:
    memory = DatabaseMachineMemory(using=galera.ALIAS)
    memory.lock("a")
    with connections[galera.ALIAS].cursor() as cursor:
        cursor.execute("SELECT @@innodb_lock_wait_timeout, @@wsrep_retry_autocommit")
        assert cursor.fetchall() == ((50, 1),)


@pytest.mark.parametrize(("sync_wait", "level"), [(0, "warning"), (7, "ok")])
def test_the_doctor_knows_a_node(cluster: Galera, unguarded: None, sync_wait: int, level: str) -> None:
    with configured("node", cluster.settings("machines", sync_wait=sync_wait)):
        ((said, text),) = doctor.cluster(connections["node"])
    assert said == level
    nodes = sum(node.is_alive for node in cluster.nodes)
    assert text.startswith(f"The server is one of {nodes} nodes of Galera (wsrep_retry_autocommit = 1, which no lock ")
    assert "wsrep_sync_wait = 7" in text


def test_a_node_that_became_read_only_is_left_after_the_first_refusal(cluster: Galera, unguarded: None) -> None:
    first, second, _ = cluster.nodes
    first.execute("CREATE USER app")  # Root may always write.
    first.execute("GRANT ALL ON machines.* TO app")
    with configured("moved", {**cluster.settings("machines", nodes=[first]), "USER": "app"}):
        memory = DatabaseMachineMemory(using="moved")
        assert memory.lock("a") is True
        first.execute("SET GLOBAL read_only = 1")
        try:
            connections["moved"].settings_dict["OPTIONS"]["nodes"] = [second.port]  # The name leads elsewhere by now.
            with pytest.raises(LockError):
                memory.lock("b")
            assert memory.lock("b") is True
            assert [memory.cleanup(id) for id in "ab"] == [True, True]
        finally:
            first.execute("SET GLOBAL read_only = 0")


@emptied
@pytest.mark.timeout(240)
def test_a_node_that_is_cut_off_grants_nothing_and_loses_nothing(cluster: Galera, work: Callable[..., Figures]) -> None:
    lonely = cluster.nodes[-1]

    def part() -> None:
        lonely.part(isolate=True)
        wait_until(lambda: not lonely.is_ready(), "the isolation of a node")
        time.sleep(SECONDS)
        lonely.part(isolate=False)
        wait_until(lonely.is_ready, "its return")

    with cluster.suspicious():
        assert_that_nothing_was_lost(work(part))


@emptied
@pytest.mark.timeout(240)
@pytest.mark.parametrize("turn", range(TURNS))
def test_a_node_that_is_killed_loses_nothing(cluster: Galera, work: Callable[..., Figures], turn: int) -> None:
    first, *_, last = cluster.nodes

    def kill() -> None:
        last.kill()
        wait_until(lambda: first.members == len(cluster.nodes) - 1, "the exclusion of a node")

    with cluster.suspicious():
        assert_that_nothing_was_lost(work(kill))
