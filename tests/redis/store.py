"""The Redis servers under test."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import redis
from django.conf import settings
from django.core.cache import caches
from redis.sentinel import Sentinel

from machine_memory import BaseMachineMemory, RedisMachineMemory
from machine_memory.backends.redis.hashes import Hashes
from machine_memory.backends.redis.store import RedisStore as StoreInRedis
from tests import servers
from tests.contract.stores import ServerStore, Store
from tests.proxy import Proxy


def client_of(memory: BaseMachineMemory) -> redis.Redis:
    assert isinstance(memory.store, StoreInRedis)
    return memory.store._servers.example


@contextmanager
def sent_by(memory: BaseMachineMemory) -> Iterator[list[str]]:
    """Gather what a memory sends to its Redis server within, one text for each time that it sends."""
    connection_class = client_of(memory).connection_pool.connection_class
    send = connection_class.send_packed_command
    sent: list[str] = []

    def listening(connection: Any, command: Any, *args: Any, **options: Any) -> Any:
        sent.append(str(command))
        return send(connection, command, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection_class, "send_packed_command", listening)
        yield sent


@contextmanager
def amid_each_write(memory: BaseMachineMemory, do: Callable[[], object]) -> Iterator[None]:
    """Do something whenever a write has said ahead what it will be, and before the server decides on it."""
    store: Any = memory.store
    change = store._change

    def paused(*args: Any) -> Any:
        do()
        return change(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "_change", paused)
        yield


class RedisStore(ServerStore):
    question = b"HMGET"
    no_answer = "NotConnected"

    def __init__(self, name: str) -> None:
        self.alias = servers.REDIS[name]
        super().__init__(name)
        # The tests' own user may do everything.
        self.client: Any = servers.redis_client(name)
        self.close()

    def new_memory(self, **options: Any) -> RedisMachineMemory:
        return RedisMachineMemory(cache=self.alias, **options)

    def key(self, id: str) -> str:
        store: Any = self.memory.store
        return str(store._hashes.key(id))

    def expire(self, id: str, *, ago: float = 0.0) -> None:
        assert self.client.hexists(self.key(id), "lease_token")
        self.client.hset(self.key(id), "lease_expires_at", self._time(ago))

    def age(self, id: str, seconds: float) -> None:
        assert self.client.hexists(self.key(id), "written_at")
        self.client.hset(self.key(id), "written_at", self._time(seconds))

    def _time(self, ago: float) -> int:
        seconds, microseconds = self.client.time()
        return int(seconds * 1_000_000 + microseconds - round(ago * 1_000_000))

    def lease_of(self, id: str) -> tuple[str, float] | None:
        token, expires_at = self.client.hmget(self.key(id), "lease_token", "lease_expires_at")
        return (token.decode(), int(expires_at) / 1_000_000) if token else None

    def count(self) -> int:
        return len([key for key in self._keys() if b":machine:(" not in key])

    def asked(self) -> AbstractContextManager[list[str]]:
        return sent_by(self.memory)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        scan = Hashes.scan

        def at_the_beginning_of_time(hashes: Any, *names: str) -> Iterator[Any]:
            return ((id, 0, row) for id, _now, row in scan(hashes, *names))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Hashes, "scan", at_the_beginning_of_time)
            yield

    @property
    def decisive(self) -> bytes:
        return b"EVALSHA"

    def close(self) -> None:
        for key in self._keys():
            self.client.delete(key)

    @contextmanager
    def through_proxy(self) -> Iterator[tuple[BaseMachineMemory, Proxy]]:
        address = redis.connection.parse_url(self.location)  # type: ignore[no-untyped-call]
        proxy = Proxy((address.pop("host"), address.pop("port")))
        memory = RedisMachineMemory(client=self._client_at(proxy.port, address), key_prefix=f"{servers.PREFIX}:1:")
        try:
            yield memory, proxy
        finally:
            self.hang_up(memory)
            proxy.close()

    def _client_at(self, port: int, options: dict[str, Any]) -> redis.Redis:
        return redis.Redis(host="127.0.0.1", port=port, **options)

    def hang_up(self, memory: BaseMachineMemory) -> None:
        client_of(memory).connection_pool.disconnect()

    @property
    def location(self) -> str:
        """The address that the memory has, with its user."""
        return str(caches.settings[self.alias]["LOCATION"])

    def _keys(self) -> list[bytes]:
        return list(self.client.scan_iter(f"{self._prefix}*", count=1000))

    @property
    def _prefix(self) -> str:
        return f"{caches[self.alias].key_prefix}:"


class SentinelStore(RedisStore):
    """The primary that a Sentinel names."""

    @property
    def location(self) -> str:
        host, port = self.client.connection_pool.get_master_address()
        return f"redis://{host}:{port}/0"

    def _client_at(self, port: int, options: dict[str, Any]) -> redis.Redis:
        sentinel: Any = Sentinel([])  # type: ignore[no-untyped-call]
        sentinel.discover_master = lambda service: ("127.0.0.1", port)
        client: redis.Redis = sentinel.master_for("proxied", **options)
        return client


class ClusterStore(RedisStore):
    """A cluster of three nodes."""

    nodes = 3

    def __init__(self, name: str) -> None:
        servers.wait_for_cluster(name)
        super().__init__(name)

    def new_memory(self, **options: Any) -> RedisMachineMemory:
        return RedisMachineMemory(**{**self._options, **options})

    @contextmanager
    def through_proxy(self) -> Iterator[tuple[BaseMachineMemory, Any]]:
        memory: Any = self.new_memory()
        nodes = {(node.host, node.port): Proxy((node.host, node.port)) for node in self.client.get_primaries()}
        memory.store._servers._remap = lambda address: ("127.0.0.1", nodes[address].port)
        owner = self.client.get_node_from_key(self.key("a"))
        proxies = Proxies(nodes.pop((owner.host, owner.port)), *nodes.values())
        nodes[owner.host, owner.port] = proxies.first
        try:
            yield memory, proxies
        finally:
            self.hang_up(memory)
            proxies.close()

    def hang_up(self, memory: BaseMachineMemory) -> None:
        memory.store.start_afresh()

    @property
    def _options(self) -> dict[str, Any]:
        memories: dict[str, Any] = settings.MACHINE_MEMORIES
        return dict(memories[self.alias]["OPTIONS"])

    @property
    def _prefix(self) -> str:
        return str(self._options["key_prefix"])


class Proxies:
    """A proxy for each node that are told alike; it is the first whose connections and requests count."""

    first: Proxy

    def __init__(self, *proxies: Proxy) -> None:
        vars(self).update(first=proxies[0], _all=proxies)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.first, name)

    def __setattr__(self, name: str, value: Any) -> None:
        for proxy in self._all:
            setattr(proxy, name, value)

    def refuse(self) -> None:
        for proxy in self._all:
            proxy.refuse()

    def hang_up(self) -> None:
        for proxy in self._all:
            proxy.hang_up()

    def close(self) -> None:
        for proxy in self._all:
            proxy.close()


STORES: dict[str, type[Store]] = {
    **dict.fromkeys(servers.CACHES, RedisStore),
    servers.BEHIND_SENTINEL: SentinelStore,
    **dict.fromkeys(servers.CLUSTERS, ClusterStore),
}
