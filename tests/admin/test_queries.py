"""What the admin asks the database for a page: a few queries, none of which goes through the whole table."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.admin.utils import quote
from django.contrib.auth.models import Permission, User
from django.db import connections
from django.test import Client, override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from machine_memory.admin.lists import MOST
from machine_memory.models import MachineRecord
from tests.conftest import TESTED
from tests.contract.stores import DATABASES
from tests.database.test_database import execute

COUNT, HELD, SLEEPERS, FAMILY = 4_000, 800, 300, 10
"""Machines; the newest have a lease, every other one live; the oldest sleep, every other one due; the first of each
family is the parent of the others.
"""
PARENT = f"order-{COUNT - FAMILY:05}"
MACHINES = reverse("admin:machine_memory_machinerecord_changelist")
LISTS = {
    "plain": MACHINES,
    "page 20": f"{MACHINES}?p=20",
    "held": f"{MACHINES}?lease=held",
    "expired": f"{MACHINES}?lease=expired",
    "free": f"{MACHINES}?lease=free",
    "due": f"{MACHINES}?timer=due",
    "sleeping": f"{MACHINES}?timer=sleeping",
    "exhausted": f"{MACHINES}?timer=exhausted",
    "due, after a sort": f"{MACHINES}?timer=due&o=1",
    "held, after a sort": f"{MACHINES}?lease=held&o=-1",
    "due of a status": f"{MACHINES}?timer=due&status=done",
    "common status": f"{MACHINES}?status=done",
    "rare status": f"{MACHINES}?status=failed",
    "expired of a status": f"{MACHINES}?lease=expired&status=done",
    "prefix": f"{MACHINES}?q=order-012",
    "tree": f"{MACHINES}?q=root:{PARENT}",
    "children": f"{MACHINES}?parent={PARENT}",
    "held locks": reverse("admin:machine_memory_heldlock_changelist"),
}
PAGES = {
    **LISTS,
    "machine": reverse("admin:machine_memory_machinerecord_change", args=[quote(PARENT)]),
    "forced release": reverse("admin:machine_memory_machinerecord_force_release", args=[quote(PARENT)]),
}
NEARLY_ALL = {"plain", "page 20", "free"}
"""Lists that nearly every machine is in: going through the table until the LIMIT is the shortest way."""
TABLE = MachineRecord._meta.db_table
MOST_QUERIES = 8

every_database = pytest.mark.parametrize(
    "alias",
    [
        pytest.param(alias, id=name, marks=pytest.mark.django_db(transaction=True, databases={"default", alias}))
        for name, alias in DATABASES.items()
        if name in TESTED
    ],
)


_asked: dict[str, dict[str, list[str]]] = {}


@pytest.fixture
def asked(alias: str) -> dict[str, list[str]]:
    """By page the queries that it takes, of an operator who is logged in; looked at once for all tests."""
    if alias not in _asked:
        _asked[alias] = look(alias)
    return _asked[alias]


def look(alias: str) -> dict[str, list[str]]:
    insert(alias)
    user = User.objects.create_user("operator", is_staff=True)
    user.user_permissions.set(Permission.objects.all())
    client = Client()
    client.force_login(user)
    with override_settings(MACHINE_MEMORIES={"default": {"OPTIONS": {"using": alias}}}):
        return {page: queries(client, alias, url) for page, url in PAGES.items()}


def insert(alias: str) -> None:
    if MachineRecord._base_manager.using(alias).exists():
        return
    now = datetime.now(UTC)
    machines = []
    for number in range(COUNT):
        machine = MachineRecord(
            id=f"order-{number:05}",
            data={"text": "x" * 500},
            version=1,
            status="failed" if number % 200 == 0 else "done" if number % 2 else "new",
            parent=f"order-{number - number % FAMILY:05}" if number % FAMILY else None,
            root=f"order-{number - number % FAMILY:05}",
            fence=number,
            created_at=now,
        )
        if number >= COUNT - HELD:
            machine.lease_token, machine.lease_owner, machine.lease_acquired_at = f"{number}", "somebody", now
            machine.lease_expires_at = now + timedelta(hours=1 if number % 2 else -1)
        elif number < SLEEPERS:
            machine.wake_at = now + timedelta(hours=1 if number % 2 else -1)
        elif number < SLEEPERS + 10:
            machine.attempts = 5
        machines.append(machine)
    MachineRecord._base_manager.using(alias).bulk_create(machines)
    # What other tests have deleted, and no server has cleared away yet, would be taken for rows.
    if analyze := {"postgresql": "VACUUM ANALYZE", "mysql": "OPTIMIZE TABLE"}.get(connections[alias].vendor):
        execute(alias, f"{analyze} {TABLE}")


def queries(client: Client, alias: str, url: str) -> list[str]:
    with CaptureQueriesContext(connections["default"]) as users, CaptureQueriesContext(connections[alias]) as machines:
        assert client.get(url).status_code == 200
    return [query["sql"] for query in [*users, *(machines if alias != "default" else [])]]


def gone_through(alias: str, query: str) -> set[str]:
    """Return what the plan of ``query`` goes through from its beginning: indexes by name, and the whole table as ''."""
    match connections[alias].vendor:
        case "postgresql":
            execute(alias, "SET enable_seqscan = off")  # It takes so small a table as a whole, rather than an index.
            (((plan,),),) = execute(alias, f"EXPLAIN (FORMAT JSON) {query}")
            execute(alias, "RESET enable_seqscan")
            scans = [node for node in nodes(plan["Plan"]) if node.get("Relation Name") == TABLE]
            whole = [node for node in scans if "Index Cond" not in node and node["Node Type"] != "Bitmap Heap Scan"]
            return {node.get("Index Name", "") for node in whole} - {"machine_lease"}  # It has leases alone.
        case "sqlite":
            steps = "\n".join(row[-1] for row in execute(alias, f"EXPLAIN QUERY PLAN {query}"))
            return set(re.findall(rf"^SCAN {TABLE}(?: USING (?:COVERING )?INDEX (\w+))?", steps, re.MULTILINE))
    rows = [row for row in execute(alias, f"EXPLAIN {query}") if row[2] == TABLE]
    return {row[5] or "" for row in rows if row[3] in ("ALL", "index")}


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


@every_database
def test_a_page_takes_few_queries(asked: dict[str, list[str]]) -> None:
    assert {page: len(queries) for page, queries in asked.items() if len(queries) > MOST_QUERIES} == {}


@every_database
def test_no_list_reads_the_state(asked: dict[str, list[str]]) -> None:
    for page in LISTS:
        assert not [query for query in asked[page] if re.search(r"\bdata\b", query)]


@every_database
def test_a_list_counts_no_further_than_it_goes(asked: dict[str, list[str]]) -> None:
    for page in LISTS:
        (count,) = [query for query in asked[page] if "COUNT(*)" in query]
        assert re.search(rf" LIMIT {MOST + 1}\) subquery$", count)


@every_database
def test_no_page_goes_through_the_whole_table(alias: str, asked: dict[str, list[str]]) -> None:
    insert(alias)
    found = {
        (page, query): through
        for page, queries in asked.items()
        for query in queries
        if TABLE in query and (through := gone_through(alias, query))
    }
    assert {(page, query): through for (page, query), through in found.items() if page not in NEARLY_ALL} == {}
    assert all(" LIMIT " in query for _page, query in found)


@pytest.mark.django_db(transaction=True)
def test_leases_are_listed_by_their_end_and_in_no_other_order() -> None:
    now = datetime.now(UTC)
    for number, id in enumerate("cab"):
        expires_at = now + timedelta(hours=1 + number)
        MachineRecord.objects.create(id=id, fence=1, created_at=now, lease_token=id, lease_expires_at=expires_at)
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    by_end, by_key = client.get(LISTS["held, after a sort"]), client.get(MACHINES)

    assert [machine.pk for machine in by_end.context["cl"].result_list] == ["c", "a", "b"]
    assert [machine.pk for machine in by_key.context["cl"].result_list] == ["a", "b", "c"]
    assert b'class="sortable' in by_key.content
    assert b'class="sortable' not in by_end.content
