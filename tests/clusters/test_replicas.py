"""PostgreSQL with a replica that takes over: what of the promises holds when the primary dies, and what does not."""

import os
import time
from collections import Counter
from pathlib import Path

import pytest
from django.db import connections
from django.test import override_settings

from machine_memory import DatabaseMachineMemory, LockError, UnknownOutcome
from machine_memory.backends.database import doctor
from tests.clusters import replicas
from tests.clusters.processes import configured, wait_until
from tests.clusters.replicas import ALIAS, Pair
from tests.clusters.work import IDS, REPORT, Crew, Figures, repeated
from tests.conftest import in_thread
from tests.doctor.test_doctor import examined

if replicas.missing:
    pytest.skip(f"postgresql replicas: {replicas.missing}", allow_module_level=True)
TURNS = 5 if os.environ.get("MACHINE_MEMORY_LARGE") else 1
WORKERS = 3
SOON = 5
"""Seconds within which processes are at work again by themselves."""
synchronous = pytest.mark.parametrize("pair", ["synchronous"], indirect=True)
asynchronous = pytest.mark.parametrize("pair", ["asynchronous"], indirect=True)
several_times = pytest.mark.parametrize("turn", range(TURNS))


def fail_over(pair: Pair, folder: Path, *, cut: bool = False) -> Figures:
    """Kill the primary while several processes hold few machines, promote the replica, and see them go on."""
    with Crew(ALIAS, folder, WORKERS) as crew:
        wait_until(lambda: crew.is_at_work(0), "the first lease of each")
        time.sleep(0.5)
        if cut:
            pair.stream.refuse()
            pair.stream.hang_up()
            cut_at = time.monotonic()
            wait_until(lambda: crew.is_at_work(cut_at), "what the replica does not know of")
        pair.primary.kill()
        pair.replica.promote()
        promoted_at = time.monotonic()
        wait_until(lambda: crew.is_at_work(promoted_at), "the next lease of each", patience=SOON)
        return crew.stop()


def lost(figures: Figures) -> int:
    """Return how many acknowledged writes are not in what is stored: each state counts those before it."""
    memory, count = DatabaseMachineMemory(using=ALIAS), 0
    for id in IDS:
        record = memory.record(id)
        assert record
        assert record.data == {"n": record.version}
        versions = Counter(version for known, version in figures.acknowledged if known == id)
        count += sum(times if version > record.version else times - 1 for version, times in versions.items())
    return count


def report(request: pytest.FixtureRequest, figures: Figures) -> None:
    REPORT[request.node.name] = f"{lost(figures)} lost; {figures.summary()}"


@synchronous
@several_times
def test_a_synchronous_replica_takes_over_all_that_was_acknowledged(
    pair: Pair, turn: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    figures = fail_over(pair, tmp_path)
    report(request, figures)
    assert len(figures.acknowledged) > 10
    assert lost(figures) == 0
    assert (figures.doubles, figures.torn) == (0, 0)
    assert repeated(figures.granted) == []
    assert repeated(figures.acknowledged) == []


@asynchronous
@several_times
@pytest.mark.parametrize("cut", [False, True], ids=["in step", "cut off"])
def test_fences_grow_also_where_an_asynchronous_replica_lost_the_latest(
    pair: Pair, turn: int, cut: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    figures = fail_over(pair, tmp_path, cut=cut)
    report(request, figures)
    assert len(figures.acknowledged) > 10
    assert repeated(figures.granted) == []
    assert figures.torn == 0
    if cut:
        assert lost(figures) > 0, "then nothing was tried"


@synchronous
def test_a_write_whose_replica_was_not_waited_for_has_an_unknown_outcome(pair: Pair) -> None:
    memory = DatabaseMachineMemory(using=ALIAS)
    memory.write("a", {"n": 1})
    cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"

    def cancel_what_waits() -> None:
        wait_until(lambda: pair.primary.execute(cancel) == [(True,)], "the wait for the replica")

    with pair.replica.frozen():
        with in_thread(cancel_what_waits), pytest.raises(UnknownOutcome) as failed:
            memory.write("a", {"n": 2})
        with in_thread(cancel_what_waits), pytest.raises(UnknownOutcome):
            memory.write("absent", {"n": 1})
        with in_thread(cancel_what_waits), pytest.raises(UnknownOutcome):
            memory.cleanup("absent")
    assert type(failed.value.__cause__).__name__ == "Unreplicated"
    assert memory.read("a") == {"n": 2}
    assert memory.write("a", {"n": 3}) == 3


def test_the_doctor_says_whether_a_replica_is_waited_for(pair: Pair) -> None:
    level = "ok" if pair.is_synchronous else "warning"
    with override_settings(MACHINE_MEMORIES={"fast": {"OPTIONS": {"using": ALIAS}}}):
        finding = examined()["replicas"]
    assert finding.level == level
    assert finding.text.startswith("1 follow this server, which waits for ")
    pair.primary.execute("DO $$ BEGIN CREATE USER nobody; EXCEPTION WHEN duplicate_object THEN END $$")
    with configured("humble", {**pair.settings(), "USER": "nobody"}):
        (verdict,) = doctor.replicas(connections["humble"])
    assert verdict == ("ok", "1 follow this server; whether it waits for them, its user may not know (pg_monitor).")


@asynchronous
def test_an_address_of_several_hosts_leads_to_the_one_that_takes_writes(pair: Pair) -> None:
    memory = DatabaseMachineMemory(using=ALIAS)
    assert memory.lock("a") is True
    pair.primary.kill()
    pair.replica.promote()

    with pytest.raises(LockError):
        memory.lock("b")
    assert memory.lock("b") is True
