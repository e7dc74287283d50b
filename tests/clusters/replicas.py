"""A PostgreSQL of the tests' own, and a replica that follows it."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from django.core.management import call_command

from machine_memory.models import MachineRecord
from tests.clusters.processes import Account, configured, end, program, resume, spare_ports, stop, wait_until
from tests.proxy import Proxy

ALIAS = "replicated"
NAMES = ("initdb", "postgres", "pg_basebackup")
NEEDED = {name: program(name) for name in NAMES}
ACCOUNT = Account("postgres")
try:
    import psycopg
except ImportError:
    NEEDED["psycopg"] = None
missing = ", ".join([f"no {name}" for name, found in NEEDED.items() if not found]) or ACCOUNT.missing
"""Why there are none; empty where there are."""
STANDBY = "standby"
"""The name by which a synchronous replica is known."""


class Server:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (self.port,) = spare_ports(1)

    @property
    def address(self) -> str:
        return f"host=127.0.0.1 port={self.port} user=postgres dbname=postgres connect_timeout=5"

    def start(self, **settings: str) -> None:
        settings = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            # What is killed here is a process, and never the machine that writes for it.
            "fsync": "off",
            "shared_buffers": "16MB",
            "wal_receiver_status_interval": "1s",
            **settings,
        }
        options = [option for name, value in settings.items() for option in ("-c", f"{name}={value}")]
        log = self.folder.with_suffix(".log")
        self._process = ACCOUNT.start(str(NEEDED["postgres"]), "-D", self.folder, *options, log=log)
        wait_until(self._answers, f"the start of {self.folder.name} (see {log})")

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def _answers(self) -> bool:
        assert self.is_alive, self.folder.with_suffix(".log").read_text()[-2000:]
        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def execute(self, query: Any) -> list[Any]:
        with psycopg.connect(self.address, autocommit=True) as session:
            cursor = session.execute(query)
            return cursor.fetchall() if cursor.description else []

    def promote(self) -> None:
        self.execute("SELECT pg_promote(TRUE, 60)")

    def kill(self) -> None:
        end(self._process)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop each of its processes, as a machine that swaps does."""
        stop(self._process)
        try:
            yield
        finally:
            resume(self._process)


class Stream(Proxy):
    """One whose target may be gone already."""

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), client:
            super()._serve(client)


class Pair:
    """A primary and its replica; what the one sends to the other goes through a proxy."""

    def __init__(self, *, synchronous: bool) -> None:
        folder, self.is_synchronous = ACCOUNT.folder("replicas"), synchronous
        self.primary, self.replica = Server(folder / "primary"), Server(folder / "replica")
        ACCOUNT.run(str(NEEDED["initdb"]), "-A", "trust", "-N", "-U", "postgres", "-D", self.primary.folder)
        self.primary.start(synchronous_standby_names=STANDBY if synchronous else "", synchronous_commit="local")
        self.stream = Stream(("127.0.0.1", self.primary.port))
        try:
            ACCOUNT.run(
                *(str(NEEDED["pg_basebackup"]), "-h", "127.0.0.1", "-p", str(self.primary.port), "-U", "postgres"),
                *("-R", "-X", "stream", "-c", "fast", "-D", self.replica.folder),
            )
            source = f"host=127.0.0.1 port={self.stream.port} user=postgres application_name={STANDBY}"
            self.replica.start(primary_conninfo=source, synchronous_standby_names="")
            wait_until(self.is_in_step, "the replica's keeping up")
        except BaseException:
            self.close()
            raise

    def is_in_step(self) -> bool:
        return self.primary.execute(
            "SELECT replay_lsn = pg_current_wal_lsn() FROM pg_stat_replication WHERE state = 'streaming'"
        ) == [(True,)]

    def settings(self) -> dict[str, Any]:
        """Return Django's settings for whichever of them takes writes."""
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": "postgres",
            "USER": "postgres",
            "HOST": "127.0.0.1,127.0.0.1",
            "PORT": f"{self.primary.port},{self.replica.port}",
            "OPTIONS": {
                "target_session_attrs": "read-write",
                "connect_timeout": 5,
                "options": "-c synchronous_commit=on",
            },
        }

    def close(self) -> None:
        for server in (self.primary, self.replica):
            if hasattr(server, "_process"):
                server.kill()
        self.stream.close()


class Pairs:
    """A pair of either kind, and a new one where the last has lost its primary."""

    def __init__(self) -> None:
        self._known: dict[bool, Pair] = {}

    @contextmanager
    def one(self, *, synchronous: bool) -> Iterator[Pair]:
        """Yield a pair that keeps no machines, and that Django knows by its alias."""
        pair = self._known.get(synchronous)
        if pair is None or not pair.primary.is_alive:
            self.close()
            pair = self._known[synchronous] = Pair(synchronous=synchronous)
        with configured(ALIAS, pair.settings()):
            call_command("migrate", database=ALIAS, verbosity=0)
            MachineRecord.objects.using(ALIAS).all().delete()
            yield pair

    def close(self) -> None:
        while self._known:
            self._known.popitem()[1].close()
