"""The least settings that work: an admin, and a memory in SQLite or, with ``MEMORY=redis``, in Redis."""

import os
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

BASE_DIR = Path(__file__).resolve().parent.parent

SECRET_KEY = "for this example alone"  # noqa: S105
DEBUG = True

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "machine_memory",
    "example_project.fulfilment",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
ROOT_URLCONF = "example_project.urls"
STATIC_URL = "static/"
TIME_ZONE = "UTC"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("EXAMPLE_DATABASE", BASE_DIR / "example.sqlite3"),
        "OPTIONS": {
            # Readers do not wait for the writer, and a transaction waits for its turn before it has read anything.
            "init_command": "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL",
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
        },
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

CACHES = {
    "default": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0"),
        "KEY_PREFIX": "machine-memory-example",
        "OPTIONS": {"SOCKET_TIMEOUT": 5, "SOCKET_CONNECT_TIMEOUT": 5},
    }
}

# These orders are nobody's, so that logs and traces may name them.
MEMORIES = {
    "database": {
        "BACKEND": "machine_memory.backends.database.DatabaseMachineMemory",
        "LOCK_TTL": 120,
        "TELEMETRY_IDS": True,
        "OPTIONS": {"using": "default"},
    },
    "redis": {
        "BACKEND": "machine_memory.backends.redis.RedisMachineMemory",
        "LOCK_TTL": 120,
        "TELEMETRY_IDS": True,
        "OPTIONS": {"cache": "default"},
    },
}
TRACE = os.environ.get("TRACE", "0") not in ("", "0")
"""Whether spans are exported: see tracing."""
MEMORY = os.environ.get("MEMORY", "database")
if MEMORY not in MEMORIES:
    raise ImproperlyConfigured(f"MEMORY must be database or redis, not {MEMORY!r}.")
MACHINE_MEMORIES = {"default": MEMORIES[MEMORY], "inbox": MEMORIES["database"]}
