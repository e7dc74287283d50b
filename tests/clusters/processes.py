"""What the servers of a test's own have in common: ports, a user, an end, and how Django is told of them."""

import atexit
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from django.db import connections

PATIENCE = 60
LIKELY = ("/usr/sbin", "/usr/local/bin", *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)))
"""Where servers are that are not on the path of every user."""


def program(*names: str) -> str | None:
    """Return the first of these programs that is there."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *LIKELY])
    return next(filter(None, (shutil.which(name, path=path) for name in names)), None)


@cache
def mortal() -> tuple[str, ...]:
    """Return the beginning of a command whose process ends with the thread that starts it, even if that is killed.

    Where that cannot be had, nothing.
    """
    beginning = (program("setpriv") or "", "--pdeathsig", "KILL")
    try:
        subprocess.run((*beginning, "true"), check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return ()
    return beginning


def spare_ports(count: int) -> list[int]:
    """Return ports that nobody listens on, and that no connection is given by chance."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(15_000, 32_000)  # noqa: S311
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found += [port] if port not in found else []
    return found


def wait_until(done: Callable[[], Any], what: str, patience: float = PATIENCE) -> None:
    deadline = time.monotonic() + patience
    while not done():
        assert time.monotonic() < deadline, f"{what} did not happen within {patience} seconds"
        time.sleep(0.02)


@contextmanager
def configured(alias: str, settings: dict[str, Any]) -> Iterator[None]:
    """Let Django know a database by an alias."""
    known = connections.configure_settings({"default": connections.settings["default"], alias: settings})
    connections.settings[alias] = known[alias]
    try:
        yield
    finally:
        connections[alias].close()
        del connections[alias], connections.settings[alias]


class Account:
    """Whom a server runs as: the user that its package has made, where root starts it, as it refuses to be root."""

    def __init__(self, name: str) -> None:
        self.missing = ""
        self._options: dict[str, Any] = {}
        if os.geteuid() == 0:
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                self.missing = f"there is no user {name!r} to run it"
            else:
                self._entry = entry
                self._options = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}

    def folder(self, name: str) -> Path:
        folder = Path(tempfile.mkdtemp(prefix=f"machine-memory-{name}-"))
        if self._options:
            os.chown(folder, self._entry.pw_uid, self._entry.pw_gid)
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return folder

    def own(self, folder: Path) -> None:
        for path in (folder, *folder.rglob("*")) if self._options else ():
            os.chown(path, self._entry.pw_uid, self._entry.pw_gid)

    def run(self, *command: str | Path) -> None:
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd="/", **self._options)
        assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"

    def start(self, *command: str | Path, log: Path) -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            process = subprocess.Popen(
                (*mortal(), *command), stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/",
                start_new_session=True, **self._options,
            )  # fmt: skip
        atexit.register(end, process)
        return process


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a server and whatever it has started, as a power failure does."""
    if process.poll() is not None:
        return
    _signal(process, signal.SIGKILL)
    process.wait()


def stop(process: subprocess.Popen[bytes]) -> None:
    _signal(process, signal.SIGSTOP)


def resume(process: subprocess.Popen[bytes]) -> None:
    _signal(process, signal.SIGCONT)


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    children = _children(process.pid)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
    for child in children:  # PostgreSQL's are groups of their own.
        with suppress(ProcessLookupError):
            os.kill(child, number)


def _children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in listed.read_text().split()] if listed.exists() else []
