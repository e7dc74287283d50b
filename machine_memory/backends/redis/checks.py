"""What makes a Redis, or the way to it, unsafe for machines."""

from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.core.cache import caches
from django.core.checks import CheckMessage
from redis import Redis, RedisError

from machine_memory.backends.redis.servers import Servers
from machine_memory.core.store import problem
from machine_memory.exceptions import InvalidConfiguration

OLDEST = (6, 2)
"""The version that the tests run on at least."""


def cache(alias: str) -> Iterator[CheckMessage]:
    params = caches.settings[alias]
    options = params.get("OPTIONS", {})
    if options.get("IGNORE_EXCEPTIONS", getattr(settings, "DJANGO_REDIS_IGNORE_EXCEPTIONS", False)):
        yield problem(
            "E101",
            f"The cache {alias!r} ignores exceptions: whoever shares it takes an outage for an absent value.",
            "Give the memory an alias of its own, without IGNORE_EXCEPTIONS.",
        )
    location = params.get("LOCATION", "")
    servers = location.split(",") if isinstance(location, str) else list(location)
    if len(servers) > 1:
        yield problem(
            "E102",
            f"The cache {alias!r} names {len(servers)} servers: with replicas or shards, a lease is not on all of"
            " them.",
            "Give the memory an alias with the primary server alone, or Sentinel.",
        )


def client(client: Redis) -> Iterator[CheckMessage]:
    pool = client.connection_pool
    if pool.connection_class(**pool.connection_kwargs).socket_timeout is None:
        yield problem(
            "W101",
            "The client of Redis waits for ever where the server does not answer.",
            "Set SOCKET_TIMEOUT and SOCKET_CONNECT_TIMEOUT in the OPTIONS of the cache.",
        )


def nodes(servers: Servers) -> Iterator[CheckMessage]:
    try:
        nodes = servers.nodes()
    except InvalidConfiguration as error:
        yield _misfit(str(error))
        return
    except RedisError as error:
        yield _silent("The cluster", error)
        return
    for name, client in nodes.items():
        try:
            info: Any = client.info()
        except RedisError as error:
            yield _silent(name, error)
        else:
            if servers.alone and info.get("cluster_enabled"):
                yield _misfit("This is one node of a Redis Cluster: what has its slot on another one is out of reach.")
            yield from _server(name, info)


def _server(name: str, info: dict[str, Any]) -> Iterator[CheckMessage]:
    if info["maxmemory_policy"] != "noeviction":
        yield problem(
            "W102",
            f"{name} evicts by {info['maxmemory_policy']}: under memory pressure, machines would vanish.",
            "Set maxmemory-policy to noeviction, or keep the memory on a server of its own.",
        )
    if not info["aof_enabled"]:
        yield problem(
            "W103",
            f"{name} keeps no append-only file: a restart loses state and leases.",
            "Set appendonly to yes, and appendfsync to always where no acknowledged write may be lost.",
        )
    if delayed := info.get("aof_delayed_fsync"):
        yield problem(
            "W105",
            f"{name} has waited {delayed:,} times for its disk: with appendfsync everysec, what it acknowledged"
            " meanwhile is lost where it is killed.",
            "Set appendfsync to always, or give the append-only file a faster disk of its own.",
        )
    if tuple(map(int, str(info["redis_version"]).split(".")[:2])) < OLDEST:
        yield problem(
            "W106",
            f"{name} is of version {info['redis_version']}, which the scripts were not tried on.",
            f"Use Redis {OLDEST[0]}.{OLDEST[1]} or later.",
        )
    if info.get("cluster_enabled") and info["role"] == "master" and not info["connected_slaves"]:
        yield problem(
            "W107",
            f"{name} has no replica: once it fails, nothing that has its slots can be locked or read.",
            "Give each primary of the cluster a replica, on another machine.",
        )


def _misfit(text: str) -> CheckMessage:
    return problem(
        "E103",
        text,
        'Name a cluster by "OPTIONS": {"cluster": [...]} of the memory, and a single server by `cache`.',
    )


def _silent(name: str, error: RedisError) -> CheckMessage:
    return problem(
        "W104",
        f"{name} did not say how it is set up ({type(error).__name__}).",
        "Let the user of the memory run INFO while this is checked, or compare the settings by hand.",
    )
