"""Settings of the tests: SQLite, and every other server that is there."""

import os
import tempfile
from pathlib import Path
from typing import Any

from tests import servers

_folder = Path(tempfile.gettempdir())

SECRET_KEY = "for tests alone"  # noqa: S105
USE_TZ = True
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "machine_memory",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
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
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES: dict[str, dict[str, Any]] = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": _folder / "machine-memory.sqlite3",
        "OPTIONS": {"init_command": "PRAGMA journal_mode = WAL", "transaction_mode": "IMMEDIATE", "timeout": 20},
        # A file: every thread and process of a test is to see the same database.
        "TEST": {"NAME": _folder / f"machine-memory-test-{os.getpid()}.sqlite3"},
    },
    **servers.databases(),
}
DATABASE_ROUTERS = ["tests.database.routers.OnlyMachinesElsewhere"]
CACHES: dict[str, dict[str, Any]] = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    **servers.caches(),
}
MACHINE_MEMORIES = {
    "default": {},
    **{alias: {"OPTIONS": {"using": alias}} for alias in servers.ENGINES if alias in DATABASES},
    **{
        alias: {"BACKEND": "machine_memory.backends.redis.RedisMachineMemory", "OPTIONS": {"cache": alias}}
        for alias in servers.CACHES.values()
        if alias in CACHES
    },
    **servers.clusters(),
    "simple": {"BACKEND": "machine_memory.backends.simple.SimpleMachineMemory"},
}
