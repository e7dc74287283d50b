"""A PgBouncer of a test's own, before the PostgreSQL of the tests."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.redis.server import PATIENCE, _spare_port

PROGRAM = shutil.which("pgbouncer", path=os.defpath + ":/usr/sbin:/usr/local/sbin:" + os.environ.get("PATH", ""))
SETTINGS = """
[databases]
* = {server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
"""


@contextmanager
def pooled(database: dict[str, Any]) -> Iterator[dict[str, str]]:
    """Yield where a database can be reached through a pool of transactions."""
    assert PROGRAM
    port = _spare_port()
    folder = Path(tempfile.mkdtemp(prefix="machine-memory-pgbouncer-"))
    folder.chmod(0o755)
    settings = folder / "pgbouncer.ini"
    given = [name for name in ("HOST", "PORT", "USER", "PASSWORD") if database[name]]
    server = " ".join(f"{name.lower()}={database[name]}" for name in given)
    settings.write_text(SETTINGS.format(server=server, port=port))
    user = ["-u", "nobody"] if os.geteuid() == 0 else []  # It refuses to run as root.
    command = [PROGRAM, "-q", *user, str(settings)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port)
        yield {"HOST": "127.0.0.1", "PORT": str(port)}
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
