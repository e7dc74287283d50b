"""Settings of the benchmarks: scratch databases alone, on every server that is there."""

import os
import tempfile
from pathlib import Path
from typing import Any

from tests import servers

SCRATCH = "machine_memory_bench"
SIZES = (1_000, 100_000, 1_000_000, 10_000_000)
"""Numbers of machines to compare; each has a database of its own beside the others."""

# The processes that a run starts find its folder here.
_folder = Path(os.environ.get("MACHINE_MEMORY_BENCH_FOLDER", tempfile.gettempdir()))
_sqlite = {
    "ENGINE": "django.db.backends.sqlite3",
    "OPTIONS": {
        "init_command": "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL",
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
    },
}
_servers = {name: found for name, found in servers.databases().items() if name in servers.VARIABLES}


def _databases(suffix: str) -> dict[str, dict[str, Any]]:
    scratch = SCRATCH + suffix.replace("-", "_")
    return {
        f"sqlite{suffix}": {**_sqlite, "NAME": _folder / f"{scratch}.sqlite3"},
        **{name + suffix: {**found, "NAME": scratch} for name, found in _servers.items()},
    }


SECRET_KEY = "for benchmarks alone"  # noqa: S105
USE_TZ = True
OF_THE_ADMIN = ("admin", "auth", "contenttypes", "messages", "sessions")
INSTALLED_APPS = [*(f"django.contrib.{name}" for name in OF_THE_ADMIN), "machine_memory", "benchmarks"]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    }
]
ROOT_URLCONF = "tests.urls"
STATIC_URL = "static/"
ALLOWED_HOSTS = ["testserver"]
MIGRATION_MODULES = dict.fromkeys(OF_THE_ADMIN)  # Their tables are made in one go.
DATABASE_ROUTERS = ["benchmarks.databases.Router"]
DATABASES: dict[str, dict[str, Any]] = {
    "default": {**_sqlite, "NAME": _folder / f"{SCRATCH}_users.sqlite3"},
    **_databases(""),
}
if "postgresql" in DATABASES:
    # psycopg prepares nothing for Django without both.
    options = {"server_side_binding": True, "prepare_threshold": 0}
    DATABASES["postgresql-prepared"] = {**DATABASES["postgresql"], "OPTIONS": options}
for name in ("crowd", *SIZES):
    DATABASES |= _databases(f"-{name}")
