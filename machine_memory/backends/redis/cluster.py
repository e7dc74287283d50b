"""A Redis Cluster: each command is sent once, to the node that has the slot of its key, wherever that is by now."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from redis import ConnectionPool, Redis, RedisCluster, RedisError
from redis.connection import parse_url
from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, ResponseError

from machine_memory.backends.redis.client import NotConnected, is_transient, one_attempt, start_afresh
from machine_memory.backends.redis.servers import Call, Servers, raise_any, sent_together
from machine_memory.core import validation
from machine_memory.exceptions import InvalidConfiguration

Address = tuple[str, int]
SLOTS = 16384
HOPS = 5
"""Refusals of one command that say where else to go. None of these nodes has done anything."""
TIMEOUT = 5.0
"""Seconds for an answer, where the settings say nothing."""


class Node(NamedTuple):
    address: Address
    client: Redis


Place = tuple[Node, bool]
"""Where a command is sent, and whether with ASKING."""


class Cluster(Servers):
    """Nodes that are asked by a client each. Which has which slot is learned when it is first needed, and anew where
    it has changed or a node has failed."""

    alone = False

    def __init__(
        self, seeds: Iterable[Address], example: Redis, remap: Callable[[Address], Address] | None = None
    ) -> None:
        self.example = example
        self._seeds, self._remap = tuple(seeds), remap or (lambda address: address)
        # Each is replaced as a whole or by one item: no lock, which a child would inherit locked, is needed.
        self._nodes: dict[Address, Node] = {}
        self._roles: dict[Address, str] = {}
        self._owners: list[Node] = []
        """By slot."""
        self._changes, self._learned = 0, -1
        """How often it was seen that the slots may have moved, and up to which of these they are known."""
        self._guide: Address | None = None
        """Who is asked first where the slots are: the node that has got one."""
        self._suspect: Address | None = None
        """Who is asked last: the node that failed."""

    def ask(self, key: str, *command: Any) -> Any:
        node = self._owner(key)
        try:
            return node.client.execute_command(*command)  # type: ignore[no-untyped-call]
        except AskError as refusal:  # MOVED is one, too.
            place = self._redirected(node, refusal)
        except RedisError as failure:
            self._failed(node, failure)
            raise
        for _ in range(HOPS):
            ((_, reply),) = self._asked_each(place, [command])
            if not isinstance(reply, AskError):
                break
            place = self._redirected(place[0], reply)
        raise_any([reply])
        return reply

    def ask_each(self, calls: Sequence[Call]) -> list[tuple[int, Any]]:
        replies: list[tuple[int, Any]] = [(0, None)] * len(calls)
        waiting = {number: (self._owner(key), False) for number, (key, *_) in enumerate(calls)}
        for _ in range(HOPS + 1):
            places, waiting = waiting, {}
            for place, numbers in _grouped(places):
                commands = [calls[number][1:] for number in numbers]
                for number, reply in zip(numbers, self._asked_each(place, commands), strict=True):
                    replies[number] = reply
                    if isinstance(refusal := reply[1], AskError):
                        waiting[number] = self._redirected(place[0], refusal)
        return replies

    def primaries(self) -> list[Redis]:
        self._learn()
        return [self._node(address).client for address, role in self._roles.items() if role == "primary"]

    def nodes(self) -> dict[str, Redis]:
        self._learn()
        return {f"{role} {host}:{port}": self._node((host, port)).client for (host, port), role in self._roles.items()}

    def start_afresh(self) -> None:
        for node in list(self._nodes.values()):
            start_afresh(node.client.connection_pool)

    def _owner(self, key: str) -> Node:
        if self._learned != self._changes:
            self._learn()
        return self._owners[key_slot(key.encode())]

    def _asked_each(self, place: Place, commands: Sequence[Sequence[Any]]) -> list[tuple[int, Any]]:
        node, asking = place
        replies = sent_together(node.client, commands, asking=asking)
        for _, reply in replies:
            if isinstance(reply, RedisError):
                self._failed(node, reply)
        return replies

    def _redirected(self, asked: Node, refusal: AskError) -> Place:
        node = self._node(self._remap((refusal.host or asked.address[0], refusal.port)))
        if not isinstance(refusal, MovedError):
            return node, True
        self._owners[refusal.slot_id] = node
        self._guide = node.address
        self._changes += 1  # Others are likely to have moved with it.
        return node, False

    def _failed(self, node: Node, failure: RedisError) -> None:
        if is_transient(failure):
            self._changes, self._suspect = self._changes + 1, node.address

    def _node(self, address: Address) -> Node:
        try:
            return self._nodes[address]
        except KeyError:
            host, port = address
            return self._nodes.setdefault(address, Node(address, one_attempt(self.example, host=host, port=port)))

    def _learn(self) -> None:
        """Ask who has which slot. Raises as of a server that cannot be reached: nothing else was sent."""
        changes = self._changes  # What another thread meets meanwhile is to be learned anew.
        failures: list[RedisError] = []
        for address in self._candidates():
            try:
                ranges = self._node(address).client.execute_command("CLUSTER SLOTS")  # type: ignore[no-untyped-call]
            except RedisError as failure:
                failures.append(failure)
                self._suspect = address
            else:
                if ranges:
                    self._note(address, ranges)
                    self._learned = changes
                    return
        raise _unknown(failures)

    def _candidates(self) -> list[Address]:
        known = dict.fromkeys([*self._seeds, *self._roles])
        return sorted(known, key=lambda address: (address == self._suspect) - (address == self._guide))

    def _note(self, asked: Address, ranges: list[Any]) -> None:
        owners: list[Node] = []
        roles: dict[Address, str] = {}
        for first, last, *there in ranges:
            # A node that does not know its own address is where it was asked.
            addresses = [self._remap(((host or b"").decode() or asked[0], port)) for host, port, *_ in there]
            owner = self._node(addresses[0])
            owners = owners or [owner] * SLOTS  # Whoever is asked for a slot that nobody has says so.
            owners[first : last + 1] = [owner] * (last + 1 - first)
            roles |= dict.fromkeys(addresses[1:], "replica") | {addresses[0]: "primary"}
        self._owners, self._roles = owners, roles
        known = {*roles, *self._seeds}
        self._nodes = {address: node for address, node in list(self._nodes.items()) if address in known}


def cluster_at(urls: object, *, socket_timeout: float | None) -> Cluster:
    """Return the cluster that some nodes with these URLs belong to, without asking it anything."""
    if isinstance(urls, str) or not isinstance(urls, Sequence) or not urls:
        found = type(urls).__name__ if urls else "empty"
        raise InvalidConfiguration(f"cluster must be a list with the URLs of some of its nodes, not {found}.")
    seeds, options = [], []
    for number, url in enumerate(urls):
        try:
            parsed = dict(parse_url(url))  # type: ignore[no-untyped-call]
        except (ValueError, TypeError, AttributeError):  # Its words quote the URL, with the password.
            parsed = {}
        if "host" not in parsed or parsed.pop("db", 0):
            raise InvalidConfiguration(
                f"cluster[{number}] must be a URL as redis://user:password@host:6379, or rediss:// for TLS, without a"
                " database."
            )
        seeds.append((parsed.pop("host"), parsed.pop("port", 6379)))
        options.append(parsed)
    if any(others != options[0] for others in options):
        raise InvalidConfiguration("The URLs of cluster must differ in host and port alone: all nodes have one user.")
    timeout = TIMEOUT if socket_timeout is None else validation.option(socket_timeout, "socket_timeout", float)
    timeouts = {"socket_timeout": timeout, "socket_connect_timeout": timeout}
    return Cluster(seeds, one_attempt(Redis(connection_pool=ConnectionPool(**timeouts | options[0]))))


def cluster_like(client: RedisCluster) -> Cluster:
    """Return the cluster that a client of redis-py's knows, with the settings that it has for each node."""
    nodes, manager = list(client.nodes_manager.nodes_cache.values()), client.nodes_manager
    example = client.get_redis_connection(nodes[0])
    # Its own hook asks for replicas to be read.
    example = one_attempt(example, redis_connect_func=client.user_on_connect_func)
    return Cluster([(node.host, int(node.port)) for node in nodes], example, manager.address_remap)


def _grouped(places: dict[int, Place]) -> Iterable[tuple[Place, list[int]]]:
    grouped: dict[Place, list[int]] = defaultdict(list)
    for number, place in places.items():
        grouped[place].append(number)
    return grouped.items()


def _unknown(failures: list[RedisError]) -> Exception:
    """Return what to raise where no node says who has which slot."""
    if not failures:
        return ClusterDownError("No node that answers knows of any slot.")
    worst = next((failure for failure in failures if not is_transient(failure)), failures[0])
    if isinstance(worst, ResponseError) and "cluster support disabled" in str(worst):
        return InvalidConfiguration("cluster leads to a server that is no node of a cluster: use `cache` for it.")
    if not is_transient(worst):
        return worst
    unreached = NotConnected(f"No node of the cluster answers ({type(worst).__name__}).")
    unreached.__cause__ = worst
    return unreached
