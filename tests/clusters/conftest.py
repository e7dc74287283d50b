"""The clusters, each started once, when the first test asks for it."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.clusters import galera
from tests.clusters.galera import Galera
from tests.clusters.replicas import Pair, Pairs
from tests.clusters.work import REPORT


@pytest.fixture(scope="session")
def cluster(django_db_setup: None, django_db_blocker: Any) -> Iterator[Galera]:
    with django_db_blocker.unblock(), galera.running() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def pairs(django_db_setup: None) -> Iterator[Pairs]:
    pairs = Pairs()
    yield pairs
    pairs.close()


@pytest.fixture(params=["synchronous", "asynchronous"])
def pair(pairs: Pairs, django_db_blocker: Any, request: pytest.FixtureRequest) -> Iterator[Pair]:
    with django_db_blocker.unblock(), pairs.one(synchronous=request.param == "synchronous") as pair:
        yield pair


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["told"] = REPORT


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    REPORT.update(getattr(node, "workeroutput", {}).get("told", {}))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if REPORT:
        terminalreporter.section("what the processes on the clusters were told")
    for test, summary in REPORT.items():
        terminalreporter.line(f"{test}: {summary}")
