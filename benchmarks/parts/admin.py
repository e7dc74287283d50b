"""Pages of the admin among many machines: how many queries they take, and how long."""

from http import HTTPStatus
from itertools import repeat

from django.contrib.admin.utils import quote
from django.contrib.auth.models import User
from django.db import connections
from django.test import Client, override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from benchmarks import databases
from benchmarks.contestants import expect
from benchmarks.measure import Contestant
from benchmarks.report import Bar, Section, Table
from benchmarks.run import Run

USUAL, QUICK = 1_000_000, 100_000
USERS = "default"
MOST_QUERIES, MOST = 8, 300
"""Queries and milliseconds that a page may take."""
STEP = "get"
MICROSECONDS = 1_000
"""In a millisecond."""


def measured(run: Run) -> Section:
    count = QUICK if run.quick else USUAL
    aliases = {f"{name}-{count}": databases.NAMES[name] for name in databases.available()}
    section = Section(
        "Admin",
        f"Pages among {count:,} machines; the newest 10,000 have a lease, half of them live. The queries for session"
        " and user count, and so does the rendering.",
    )
    pages = _pages(count)
    with databases.scratch(USERS, *aliases):
        run.says(f"{count:,} machines are inserted")
        databases.fill_all(dict.fromkeys(aliases, count), held=databases.NEWEST)
        client = Client()
        client.force_login(User.objects.create_superuser("admin"))
        for alias, name in aliases.items():
            with override_settings(MACHINE_MEMORIES={"default": {"OPTIONS": {"using": alias}}}):
                queries = [_queries(client, alias, url) for url in pages.values()]
                times = _times(run, client, name, pages)
            rows = list(zip(pages, queries, times, strict=True))
            section.tables.append(Table(name, ["", "queries", "p50, ms"], rows))
            what = f"{name}: a page of the admin among {count:,} machines"
            section.bars.append(Bar(what=what, measured=max(queries), unit="queries", most=MOST_QUERIES))
            section.bars.append(Bar(what=what, measured=max(times), unit="ms", most=MOST))
    return section


def _pages(count: int) -> dict[str, str]:
    machines = reverse("admin:machine_memory_machinerecord_changelist")
    parent = databases.machine_id(count - databases.FAMILY)
    return {
        "machines": machines,
        "machines, page 50": f"{machines}?p=50",
        "held": f"{machines}?lease=held",
        "expired": f"{machines}?lease=expired",
        "free": f"{machines}?lease=free",
        "of a common status": f"{machines}?status={databases.COMMON}",
        "of a common status, expired": f"{machines}?status={databases.COMMON}&lease=expired",
        "of a rare status": f"{machines}?status={databases.RARE}",
        "with the same beginning": f"{machines}?q={parent[:-4]}",
        "of a tree": f"{machines}?q=root:{parent}",
        "children": f"{machines}?parent={parent}",
        "held locks": reverse("admin:machine_memory_heldlock_changelist"),
        "a machine": reverse("admin:machine_memory_machinerecord_change", args=[quote(parent)]),
        "its forced release": reverse("admin:machine_memory_machinerecord_force_release", args=[quote(parent)]),
    }


def _visit(client: Client, url: str) -> None:
    expect(client.get(url).status_code == HTTPStatus.OK)


def _queries(client: Client, alias: str, url: str) -> int:
    with CaptureQueriesContext(connections[USERS]) as users, CaptureQueriesContext(connections[alias]) as machines:
        _visit(client, url)
    return len(users) + len(machines)


def _times(run: Run, client: Client, name: str, pages: dict[str, str]) -> list[float]:
    contestants = [
        Contestant(name=page, steps={STEP: lambda url: _visit(client, url)}, ids=repeat(url))
        for page, url in pages.items()
    ]
    race = run.race(f"admin, {name}", contestants, turn=1)
    return [race.median(page, STEP) / MICROSECONDS for page in pages]
