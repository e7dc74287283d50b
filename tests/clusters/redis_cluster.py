"""A Redis Cluster that the tests start for themselves, on spare ports of the loopback interface."""

import random
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import redis
from redis.crc import key_slot

from tests.redis.server import RedisServer, programs

PATIENCE = 30
SLOTS = 16384
NODE_TIMEOUT = "1000"
"""Milliseconds without an answer until others hold a node to be gone."""


class RedisNodes:
    """Primaries that share the slots, with so many replicas each; every node is a ``RedisServer``.

    It takes a while from the start until they serve: ``wait`` for that. ``tls``: what more each is told, to talk by TLS
    too, at the next port.
    """

    def __init__(
        self,
        *,
        primaries: int = 3,
        replicas: int = 0,
        program: str | None = None,
        tls: dict[str, str] | None = None,
        **settings: str,
    ) -> None:
        self._tls = tls
        self._program = program or programs()[-1]
        self._settings = {
            "cluster_enabled": "yes",
            "cluster_node_timeout": NODE_TIMEOUT,
            "repl_ping_replica_period": "1",
            **settings,
        }
        self._stack = ExitStack()
        self.primaries = [self.start_node() for _ in range(primaries)]
        self.replicas: list[RedisServer] = []
        for number, node in enumerate(self.primaries):
            client = self.client_of(node)
            first, last = SLOTS * number // primaries, SLOTS * (number + 1) // primaries
            client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
            client.execute_command("CLUSTER ADDSLOTS", *range(first, last))
            self.meet(node)
        following = [(self.start_node(), node) for node in self.primaries for _ in range(replicas)]
        for node, _ in following:
            self.meet(node)
        for node, primary in following:
            self._replicate(node, self.id_of(primary))
        self.replicas = [node for node, _ in following]
        until(lambda: all(self.info(node)["master_link_status"] == "up" for node in self.replicas))

    def __enter__(self) -> "RedisNodes":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def nodes(self) -> list[RedisServer]:
        return [*self.primaries, *self.replicas]

    @property
    def urls(self) -> list[str]:
        return [node.url.removesuffix("/0") for node in self.primaries]

    def wait(self) -> None:
        """Wait until every node says that all slots are served."""
        until(lambda: all(self._is_ready(node) for node in self.primaries))

    def start_node(self) -> RedisServer:
        """Start a node that knows of no other one."""
        port = spare_port()
        tls = (
            {"tls_port": str(port + 1), "tls_cluster": "yes", "tls_replication": "yes", **self._tls}
            if self._tls
            else {}
        )
        return self._stack.enter_context(RedisServer(self._program, port=str(port), **self._settings, **tls))

    def meet(self, node: RedisServer) -> None:
        port = self.primaries[0].port + (1 if self._tls else 0)
        self.client_of(node).execute_command("CLUSTER MEET", "127.0.0.1", port)

    def _replicate(self, node: RedisServer, id: str) -> None:
        until(lambda: id in str(self.client_of(node).execute_command("CLUSTER NODES")))
        self.client_of(node).execute_command("CLUSTER REPLICATE", id)

    def client_of(self, node: RedisServer) -> Any:
        """Return a client of one node, whose user may do everything."""
        return self._stack.enter_context(redis.Redis.from_url(node.url, socket_timeout=5))

    def id_of(self, node: RedisServer) -> str:
        return str(self.client_of(node).execute_command("CLUSTER MYID").decode())

    def info(self, node: RedisServer) -> dict[str, Any]:
        return dict(self.client_of(node).info())

    def owner(self, key: str) -> RedisServer:
        """Return the primary that has the slot of a key, as the nodes say that answer."""
        slot, ports = key_slot(key.encode()), {node.port: node for node in self.nodes}
        for node in self.nodes:
            try:
                ranges = self.client_of(node).execute_command("CLUSTER SLOTS")
            except redis.RedisError:
                continue
            for first, last, (_host, port, *_), *_replicas in ranges:
                if first <= slot <= last:
                    return ports[port]
        raise AssertionError(f"nobody has slot {slot}")

    def begin_to_move(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """From now on the source says ASK for what it has not in this slot."""
        self.client_of(target).execute_command("CLUSTER SETSLOT", slot, "IMPORTING", self.id_of(source))
        self.client_of(source).execute_command("CLUSTER SETSLOT", slot, "MIGRATING", self.id_of(target))

    def move_keys(self, slot: int, source: RedisServer, target: RedisServer) -> int:
        client, moved = self.client_of(source), 0
        while keys := client.execute_command("CLUSTER GETKEYSINSLOT", slot, 100):
            client.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
            moved += len(keys)
        return moved

    def end_to_move(self, slot: int, target: RedisServer) -> None:
        id = self.id_of(target)
        for node in [target, *(node for node in self.primaries if node is not target)]:
            self.client_of(node).execute_command("CLUSTER SETSLOT", slot, "NODE", id)

    def runs(self) -> tuple[int, int]:
        """Return how many scripts the nodes were sent and have run, and how many they refused."""
        run = refused = 0
        for node in self.nodes:
            stats: Any = self.client_of(node).info("commandstats")
            for command in ("eval", "evalsha"):
                counts = stats.get(f"cmdstat_{command}", {})
                run += counts.get("calls", 0) - counts.get("failed_calls", 0)
                refused += counts.get("failed_calls", 0) + counts.get("rejected_calls", 0)
        return run, refused

    def close(self) -> None:
        self._stack.close()

    def _is_ready(self, node: RedisServer) -> bool:
        info = self.client_of(node).execute_command("CLUSTER INFO")
        return info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) >= len(self.primaries)


def until(done: Callable[[], Any], seconds: float = PATIENCE) -> float:
    """Wait for something, and return how long that took."""
    began = time.monotonic()
    while not done():
        assert time.monotonic() - began < seconds, f"it did not happen within {seconds} seconds"
        time.sleep(0.02)
    return time.monotonic() - began


def spare_port() -> int:
    """Return a port that is free, as are the next one and those for the talk among nodes, 10,000 higher."""
    while True:
        port = random.randrange(20_000, 32_000, 2)  # noqa: S311  # Below what the system gives to outgoing connections.
        try:
            for one in (port, port + 1, port + 10_000, port + 10_001):
                socket.create_server(("127.0.0.1", one)).close()
        except OSError:
            continue
        return port
