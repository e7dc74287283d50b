"""The store in Redis, and all that only it knows: nothing here is asked of another store."""

from collections.abc import Mapping, Sequence
from typing import Any

from redis import Redis, RedisCluster

from machine_memory.backends.redis.client import cache_of, client_of, one_attempt
from machine_memory.backends.redis.cluster import cluster_at, cluster_like
from machine_memory.backends.redis.servers import OneServer, Servers
from machine_memory.backends.redis.store import RedisStore
from machine_memory.core.memory import BaseMachineMemory
from machine_memory.exceptions import InvalidConfiguration

SEPARATOR = ":"
NAMESPACE = f"machine{SEPARATOR}"


class RedisMachineMemory(BaseMachineMemory[Mapping[str, Any]]):
    """Keep machines in Redis, one hash each: where the alias ``cache`` of ``CACHES`` says, or the ``client``, or in the
    ``cluster`` that some nodes with these URLs belong to.

    Of the alias the address, the timeouts, prefix and version are used; its serializer, its retries and
    ``IGNORE_EXCEPTIONS`` are not. ``key_prefix`` comes behind that of an alias, ``socket_timeout`` (seconds) goes with
    ``cluster``.
    """

    def __init__(
        self,
        *,
        cache: str = "default",
        client: Redis | RedisCluster | None = None,
        cluster: Sequence[str] | None = None,
        key_prefix: str = "",
        socket_timeout: float | None = None,
        **options: Any,
    ) -> None:
        if client is not None and cluster is not None:
            raise InvalidConfiguration("client and cluster are two addresses: give one of them.")
        if socket_timeout is not None and cluster is None:
            raise InvalidConfiguration("socket_timeout goes with cluster: an alias and a client have their own.")
        if cluster is None and client is None:
            namespace = cache_of(cache).make_key(key_prefix + NAMESPACE)
            # A KEY_FUNCTION may put the version last, of which an id would then be the next digit.
            namespace += "" if namespace.endswith(SEPARATOR) else SEPARATOR
            store = RedisStore(OneServer(one_attempt(client_of(cache))), namespace, cache=cache)
        else:
            servers: Servers
            if cluster is not None:
                servers = cluster_at(cluster, socket_timeout=socket_timeout)
            elif isinstance(client, RedisCluster):
                servers = cluster_like(client)
            else:
                servers = OneServer(one_attempt(client))
            store = RedisStore(servers, key_prefix + NAMESPACE, cache=None)
        super().__init__(store, **options)
