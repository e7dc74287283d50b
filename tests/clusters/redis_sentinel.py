"""A primary, a replica and a Sentinel that watches them, on spare ports of the loopback interface."""

import shutil
import subprocess
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import redis
from redis.sentinel import Sentinel

from tests.clusters.processes import mortal
from tests.clusters.redis_cluster import spare_port, until
from tests.redis.server import RedisServer, programs

WATCH = """
port {port}
bind 127.0.0.1
dir {folder}
sentinel monitor {service} 127.0.0.1 {primary} 1
sentinel down-after-milliseconds {service} {down_after}
sentinel failover-timeout {service} 3000
"""
IMPATIENT = ("INFO-PERIOD", 500, "PUBLISH-PERIOD", 200)
"""Milliseconds after which Sentinel looks who is what, and tells; else a primary of before learns it in ten seconds."""


class Watched:
    """Two servers, of which the one is the primary that Sentinel says.

    ``down_after``: milliseconds without an answer until it holds one to be gone.
    """

    def __init__(self, *, down_after: int = 500) -> None:
        self._stack = ExitStack()
        program = programs()[-1]
        self.servers = [
            self._stack.enter_context(RedisServer(program, port=str(spare_port()), repl_diskless_sync_delay="0"))
            for _ in range(2)
        ]
        primary, replica = self.servers
        self.client_of(replica).replicaof("127.0.0.1", str(primary.port))
        until(lambda: self.client_of(replica).info()["master_link_status"] == "up")
        self._folder = Path(tempfile.mkdtemp(prefix="machine-memory-sentinel-"))
        self.port = spare_port()
        settings = self._folder / "sentinel.conf"
        settings.write_text(
            WATCH.format(
                service=service_at(self.port),
                port=self.port,
                folder=self._folder,
                primary=primary.port,
                down_after=down_after,
            )
        )
        self._process = subprocess.Popen([*mortal(), program, str(settings), "--sentinel"], stdout=subprocess.DEVNULL)
        self.sentinel: Any = self._stack.enter_context(redis.Redis(port=self.port, socket_timeout=5))
        until(self._is_watching)
        with suppress(redis.ResponseError):  # Before 7.0 it is always patient.
            self.sentinel.execute_command("SENTINEL DEBUG", *IMPATIENT)

    def __enter__(self) -> "Watched":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def primary(self) -> RedisServer:
        """The primary as Sentinel says it."""
        _host, port = self.sentinel.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", service_at(self.port))
        return next(server for server in self.servers if server.port == port)

    @property
    def replica(self) -> RedisServer:
        """The other one, once it follows the primary; both may change until then."""
        until(lambda: self.client_of(self._other()).info().get("master_link_status") == "up")
        return self._other()

    def _other(self) -> RedisServer:
        primary = self.primary
        return next(server for server in self.servers if server is not primary)

    def client_of(self, server: RedisServer) -> Any:
        return self._stack.enter_context(redis.Redis.from_url(server.url, socket_timeout=5))

    def serves(self, server: RedisServer) -> bool:
        return self.primary is server and self.client_of(server).info()["role"] == "master"

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._stack.close()
        shutil.rmtree(self._folder)

    def _is_watching(self) -> bool:
        try:
            (replica,) = self.sentinel.sentinel_slaves(service_at(self.port))
            return bool(replica["master-link-status"] == "ok" and not replica["is_disconnected"])
        except (redis.RedisError, ValueError):  # It does not answer, or knows of no replica yet.
            return False


def service_at(port: int) -> str:
    """Return the name of what a Sentinel at this port watches. django-redis has one pool for each name."""
    return f"main-{port}"


def primary_at(port: int) -> Any:
    """Return a client of the primary that a Sentinel at this port names."""
    return Sentinel([("127.0.0.1", port)]).master_for(service_at(port))  # type: ignore[no-untyped-call]
