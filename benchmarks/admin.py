"""Pages of the admin among many machines: how many queries they take, and how long."""

from functools import partial
from http import HTTPStatus
from itertools import repeat

from django.contrib.admin.utils import quote
from django.contrib.auth.models import User
from django.db import connections
from django.test import Client, override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from benchmarks import stores
from benchmarks.contestants import expect
from benchmarks.measure import CYCLE, Contestant, Run
from benchmarks.report import Section

MACHINES = {"quick": 100_000, "usual": 1_000_000, "large": 1_000_000}
USERS = "default"
MOST_QUERIES, MOST = 8, 300
"""Queries and milliseconds that a page may take."""
MICROSECONDS = 1_000
"""In a millisecond."""


def admin(run: Run) -> Section:
    count = MACHINES[run.size]
    section = Section(
        "Admin",
        f"Pages among {count:,} machines; the newest 10,000 have a lease, half of them live. The queries for session"
        " and user count, and so does the rendering.",
    )
    databases = {f"{store}-{count}": stores.NAMES[store] for store in stores.DATABASES}
    pages, client = _pages(count), Client()
    steps = {CYCLE: partial(_visit, client)}
    contestants = [Contestant(page, steps, repeat(url)) for page, url in pages.items()]
    run.says(f"{count:,} machines are inserted")
    with stores.scratch({USERS: 0, **dict.fromkeys(databases, count)}, held=stores.NEWEST):
        client.force_login(User.objects.create_superuser("admin"))
        for database, name in databases.items():
            with override_settings(MACHINE_MEMORIES={"default": {"OPTIONS": {"using": database}}}):
                queries = [_queries(client, database, url) for url in pages.values()]
                race = run.race(f"admin, {name}", contestants, turn=1)
            times = [race.median(page) / MICROSECONDS for page in pages]
            section.table(name, ["", "queries", "p50, ms"], list(zip(pages, queries, times, strict=True)))
            what = f"{name}: a page of the admin among {count:,} machines"
            section.bar(what, max(queries), "queries", most=MOST_QUERIES)
            section.bar(what, max(times), "ms", most=MOST)
    return section


def _pages(count: int) -> dict[str, str]:
    machines = reverse("admin:machine_memory_machinerecord_changelist")
    parent = stores.machine_id(count - stores.FAMILY)
    return {
        "machines": machines,
        "machines, page 50": f"{machines}?p=50",
        "held": f"{machines}?lease=held",
        "expired": f"{machines}?lease=expired",
        "free": f"{machines}?lease=free",
        "of a common status": f"{machines}?status={stores.COMMON}",
        "of a common status, expired": f"{machines}?status={stores.COMMON}&lease=expired",
        "of a rare status": f"{machines}?status={stores.RARE}",
        "with the same beginning": f"{machines}?q={parent[:-4]}",
        "of a tree": f"{machines}?q=root:{parent}",
        "children": f"{machines}?parent={parent}",
        "held locks": reverse("admin:machine_memory_heldlock_changelist"),
        "a machine": reverse("admin:machine_memory_machinerecord_change", args=[quote(parent)]),
        "its forced release": reverse("admin:machine_memory_machinerecord_force_release", args=[quote(parent)]),
    }


def _visit(client: Client, url: str) -> None:
    expect(client.get(url).status_code == HTTPStatus.OK)


def _queries(client: Client, database: str, url: str) -> int:
    with CaptureQueriesContext(connections[USERS]) as users, CaptureQueriesContext(connections[database]) as machines:
        _visit(client, url)
    return len(users) + len(machines)
