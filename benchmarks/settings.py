"""Settings of the benchmarks: scratch databases alone, on every server that is there."""

import os
import tempfile
from pathlib import Path
from typing import Any

from example_project import settings as example
from tests import servers

SCRATCH = "machine_memory_bench"
SIZES = (1_000, 100_000, 1_000_000, 10_000_000)
"""Numbers of machines to compare; each has a database of its own beside the others."""

SECRET_KEY = "for benchmarks alone"  # noqa: S105
USE_TZ = True
OF_THE_ADMIN = ("admin", "auth", "contenttypes", "messages", "sessions")
INSTALLED_APPS = [*(f"django.contrib.{name}" for name in OF_THE_ADMIN), "machine_memory", "benchmarks"]
MIDDLEWARE, TEMPLATES = example.MIDDLEWARE, example.TEMPLATES
ROOT_URLCONF = "tests.urls"
STATIC_URL = "static/"
ALLOWED_HOSTS = ["testserver"]
MIGRATION_MODULES = dict.fromkeys(OF_THE_ADMIN)  # Their tables are made in one go.
DATABASE_ROUTERS = ["benchmarks.stores.Router"]

# The processes that a run starts find its folder here.
_sqlite = example.DATABASES["default"]
_folder = Path(os.environ.get("MACHINE_MEMORY_BENCH_FOLDER", tempfile.gettempdir()))
_servers = {name: found for name, found in servers.databases().items() if name in servers.VARIABLES}
DATABASES: dict[str, dict[str, Any]] = {}
for suffix in ("", "-crowd", *(f"-{size}" for size in SIZES)):
    scratch = SCRATCH + suffix.replace("-", "_")
    DATABASES[f"sqlite{suffix}"] = {**_sqlite, "NAME": _folder / f"{scratch}.sqlite3"}
    DATABASES |= {name + suffix: {**found, "NAME": scratch} for name, found in _servers.items()}
DATABASES["default"] = {**_sqlite, "NAME": _folder / f"{SCRATCH}_users.sqlite3"}
if "postgresql" in DATABASES:
    # psycopg prepares nothing for Django without both.
    options = {"server_side_binding": True, "prepare_threshold": 0}
    DATABASES["postgresql-prepared"] = {**DATABASES["postgresql"], "OPTIONS": options}
