"""Settings of the tests: SQLite, and every other server that is there."""

import os
import tempfile
from pathlib import Path
from typing import Any

from tests import servers

_folder = Path(tempfile.gettempdir())

SECRET_KEY = "for tests alone"  # noqa: S105
USE_TZ = True
INSTALLED_APPS = ["machine_memory"]
DATABASES: dict[str, dict[str, Any]] = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": _folder / "machine-memory.sqlite3",
        "OPTIONS": {"init_command": "PRAGMA journal_mode = WAL", "transaction_mode": "IMMEDIATE"},
        # A file: every thread and process of a test is to see the same database.
        "TEST": {"NAME": _folder / f"machine-memory-test-{os.getpid()}.sqlite3"},
    },
    **servers.databases(),
}
CACHES: dict[str, dict[str, Any]] = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    **servers.caches(),
}
MACHINE_MEMORIES = {
    "default": {},
    "postgresql": {"OPTIONS": {"using": "postgresql"}},
    "mariadb": {"OPTIONS": {"using": "mariadb"}},
    **{
        alias: {"BACKEND": "machine_memory.backends.redis.RedisMachineMemory", "OPTIONS": {"cache": alias}}
        for alias in servers.CACHES.values()
    },
    "simple": {"BACKEND": "machine_memory.backends.simple.SimpleMachineMemory"},
}
