"""A Redis Cluster: where its slots are, who says so, and that no script is ever sent twice."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from django.test import override_settings
from redis.backoff import ConstantBackoff
from redis.crc import key_slot
from redis.retry import Retry

from machine_memory import (
    CommitRefused,
    InvalidConfiguration,
    LockError,
    Metadata,
    ReadError,
    RedisMachineMemory,
    UnknownOutcome,
    WriteError,
    memories,
)
from machine_memory.checks import check_servers, check_settings
from machine_memory.doctor.examination import examine
from tests import servers
from tests.clusters.redis_cluster import RedisNodes, spare_port, until
from tests.conftest import in_thread, needs
from tests.proxy import Proxy
from tests.redis.server import RedisServer, programs
from tests.redis.store import Proxies

pytestmark = needs("redis nodes")
BACKEND = "machine_memory.backends.redis.RedisMachineMemory"
PREFIX = "shop:"


@pytest.fixture(scope="module")
def forming() -> Iterator[RedisNodes]:
    with RedisNodes(cluster_node_timeout="5000") as nodes:
        nodes.wait()
        yield nodes


@pytest.fixture
def nodes(forming: RedisNodes) -> RedisNodes:
    forming.wait()  # Another test may have kept a node from the others.
    for node in forming.primaries:
        forming.client_of(node).flushall()
    return forming


@pytest.fixture
def memory(nodes: RedisNodes) -> RedisMachineMemory:
    return RedisMachineMemory(cluster=nodes.urls, key_prefix=PREFIX)


def slot_of(id: str) -> int:
    return key_slot(f"{PREFIX}machine:{id}".encode())


def parted(nodes: RedisNodes, id: str) -> tuple[RedisServer, RedisServer]:
    """Return the node that has a machine, and another one."""
    owner = nodes.owner(f"{PREFIX}machine:{id}")
    return owner, next(node for node in nodes.primaries if node is not owner)


def move(nodes: RedisNodes, id: str) -> None:
    """Move the slot of a machine to another node."""
    source, target = parted(nodes, id)
    nodes.begin_to_move(slot_of(id), source, target)
    nodes.move_keys(slot_of(id), source, target)
    nodes.end_to_move(slot_of(id), target)


@contextmanager
def proxied(nodes: RedisNodes) -> Iterator[tuple[RedisMachineMemory, Any]]:
    """Yield a memory that reaches every node through a proxy, and what tells all of these."""
    ways = {("127.0.0.1", node.port): Proxy(("127.0.0.1", node.port)) for node in nodes.primaries}
    proxies = Proxies(*ways.values())
    urls = [f"redis://127.0.0.1:{proxy.port}" for proxy in ways.values()]
    memory: Any = RedisMachineMemory(cluster=urls, key_prefix=PREFIX, socket_timeout=5)
    memory.store._servers._remap = lambda address: ("127.0.0.1", ways[address].port)
    try:
        yield memory, proxies
    finally:
        memory.store.start_afresh()
        proxies.close()


class TestSentOnce:
    """Counted where it matters: what the servers have run."""

    @pytest.fixture
    def far(self, nodes: RedisNodes) -> Iterator[tuple[RedisMachineMemory, Any]]:
        with proxied(nodes) as (memory, proxies):
            for id in [f"warm {number}" for number in range(20)]:  # Every node knows the scripts.
                with memory.lease(id) as lease:
                    lease.commit({})
            memory.write("a", {"n": 1})
            yield memory, proxies

    def test_where_the_reply_is_cut_off(self, nodes: RedisNodes, far: tuple[RedisMachineMemory, Any]) -> None:
        memory, proxies = far
        run, refused = nodes.runs()
        proxies.after = b"EVALSHA"
        with pytest.raises(UnknownOutcome):
            memory.write("a", {"n": 2})
        assert nodes.runs() == (run + 1, refused)

    def test_where_that_comes_after_a_slot_has_moved(
        self, nodes: RedisNodes, far: tuple[RedisMachineMemory, Any]
    ) -> None:
        memory, proxies = far
        move(nodes, "a")
        run, refused = nodes.runs()
        self.cut_at_the_owner(nodes, proxies)
        with pytest.raises(UnknownOutcome):
            memory.write("a", {"n": 2})
        assert nodes.runs() == (run + 1, refused + 1)

    def test_where_that_comes_while_a_slot_moves(self, nodes: RedisNodes, far: tuple[RedisMachineMemory, Any]) -> None:
        memory, proxies = far
        source, target = parted(nodes, "a")
        nodes.begin_to_move(slot_of("a"), source, target)
        nodes.move_keys(slot_of("a"), source, target)
        run, refused = nodes.runs()
        proxies.after = b"ASKING"
        try:
            with pytest.raises(UnknownOutcome):
                memory.write("a", {"n": 2})
            assert nodes.runs() == (run + 1, refused + 1)
        finally:
            nodes.end_to_move(slot_of("a"), target)

    def test_where_no_node_can_be_reached_any_more(
        self, nodes: RedisNodes, far: tuple[RedisMachineMemory, Any]
    ) -> None:
        memory, proxies = far
        run, refused = nodes.runs()
        proxies.after = b"EVALSHA"
        proxies.refuse()
        with pytest.raises(UnknownOutcome):
            memory.write("a", {"n": 2})
        assert nodes.runs() == (run + 1, refused)
        memory.store.start_afresh()
        with pytest.raises(WriteError) as failed:
            memory.write("a", {"n": 2})
        assert type(failed.value) is WriteError

    def test_a_lock_is_claimed_and_not_asked_for_again(
        self, nodes: RedisNodes, far: tuple[RedisMachineMemory, Any]
    ) -> None:
        memory, proxies = far
        run, refused = nodes.runs()
        proxies.after = b"EVALSHA"
        with memory.lease("a") as lease:
            proxies.after = None
            assert lease.data == {"n": 1}
            assert nodes.runs() == (run + 1, refused)

    def test_of_a_batch_each_is(self, nodes: RedisNodes, far: tuple[RedisMachineMemory, Any]) -> None:
        memory, proxies = far
        ids = [f"b{number}" for number in range(30)]
        with memory.leases(ids) as batch:
            run, refused = nodes.runs()
            proxies.first.after = b"EVALSHA"
            with pytest.raises(CommitRefused) as failed:
                batch.commit({id: {"n": 1} for id in ids})
            assert all(isinstance(error, UnknownOutcome) for error in failed.value.exceptions)
            assert nodes.runs() == (run + 30, refused)
            proxies.first.after = None

    def test_by_a_client_of_ones_own_whatever_it_is_told(self, nodes: RedisNodes) -> None:
        node = nodes.owner(f"{PREFIX}machine:a")
        proxy = Proxy(("127.0.0.1", node.port))
        client = redis.RedisCluster.from_url(
            nodes.urls[0],
            retry=Retry(ConstantBackoff(0), 5),
            address_remap=lambda address: (address[0], proxy.port) if address[1] == node.port else address,
        )
        memory = RedisMachineMemory(client=client, key_prefix=PREFIX)
        memory.write("a", {"n": 1})
        run, refused = nodes.runs()
        proxy.after = b"EVALSHA"
        with pytest.raises(UnknownOutcome):
            memory.write("a", {"n": 2})
        assert nodes.runs() == (run + 1, refused)
        memory.store.start_afresh()
        client.close()
        proxy.close()

    def cut_at_the_owner(self, nodes: RedisNodes, proxies: Any) -> None:
        port = nodes.owner(f"{PREFIX}machine:a").port
        for proxy in proxies._all:
            if proxy._target[1] == port:
                proxy.after = b"EVALSHA"


class TestSlots:
    def test_nothing_is_asked_before_it_is_needed(self) -> None:
        memory = RedisMachineMemory(cluster=["redis://user:secret@127.0.0.1:1", "redis://user:secret@127.0.0.1:2"])
        assert list(memory.store.check(deploy=False)) == []
        assert "secret" not in repr(memory)
        with pytest.raises(LockError, match="NotConnected"):
            memory.lock("a")

    def test_one_node_is_enough_to_know_all(self, nodes: RedisNodes) -> None:
        memory = RedisMachineMemory(cluster=["redis://127.0.0.1:1", nodes.urls[1]], key_prefix=PREFIX)
        for number in range(30):
            memory.write(f"m{number}", {"n": number})
        assert [len(list(memory.find(prefix=f"m{number}", limit=1))) for number in range(30)] == [1] * 30
        assert min(nodes.client_of(node).dbsize() for node in nodes.primaries) > 0

    def test_what_moves_is_followed(self, nodes: RedisNodes, memory: RedisMachineMemory) -> None:
        memory.write("a", {"n": 1})
        with memory.lease("a") as lease:
            move(nodes, "a")
            lease.write({"n": 2})
            move(nodes, "a")
            assert lease.commit({"n": 3}) == 3
        assert memory.read("a") == {"n": 3}
        assert [summary.id for summary in memory.find()] == ["a"]

    def test_while_it_moves_it_is_found_where_it_is(self, nodes: RedisNodes, memory: RedisMachineMemory) -> None:
        source, target = parted(nodes, "new")
        nodes.begin_to_move(slot_of("new"), source, target)
        try:
            with memory.lease("new") as lease:
                lease.commit({"n": 1}, metadata=Metadata(parent="p"))
            with memory.leases(["new", "other"]) as batch:
                batch.commit({"new": {"n": 2}, "other": {"n": 1}})
            assert memory.read("new") == {"n": 2}
            assert memory.children("p") == ["new"]
            assert nodes.client_of(source).dbsize() + nodes.client_of(target).dbsize() >= 1
        finally:
            nodes.move_keys(slot_of("new"), source, target)
            nodes.end_to_move(slot_of("new"), target)

    def test_of_a_slot_that_nobody_has_it_is_an_error(self, nodes: RedisNodes, memory: RedisMachineMemory) -> None:
        memory.write("a", {})
        owner, _ = parted(nodes, "a")
        for node in nodes.primaries:
            nodes.client_of(node).execute_command("CLUSTER DELSLOTS", slot_of("a"))
        try:
            until(lambda: not nodes._is_ready(owner))
            with pytest.raises(LockError, match="ClusterDownError"):
                memory.lock("a")
            with pytest.raises(WriteError) as failed:
                RedisMachineMemory(cluster=nodes.urls, key_prefix=PREFIX).write("a", {})
            assert type(failed.value) is WriteError
        finally:
            nodes.client_of(owner).execute_command("CLUSTER ADDSLOTS", slot_of("a"))
            nodes.wait()
        assert memory.lock("a") is True

    def test_a_child_process_has_connections_of_its_own(self, nodes: RedisNodes, memory: RedisMachineMemory) -> None:
        import os

        memory.write("a", {"of": "the parent"})
        child = os.fork()
        if not child:
            done = memory.read("a") == {"of": "the parent"} and memory.write("b", {"of": "the child"}) == 1
            os._exit(0 if done else 1)
        assert [memory.read("a") for _ in range(20)] == [{"of": "the parent"}] * 20
        assert os.waitpid(child, 0)[1] == 0
        assert memory.read("b") == {"of": "the child"}

    def test_threads_share_it(self, nodes: RedisNodes, memory: RedisMachineMemory) -> None:
        def count(id: str) -> None:
            for _ in range(50):
                with memory.lease(id, wait=10) as lease:
                    lease.commit({"n": (lease.data or {"n": 0})["n"] + 1})

        threads = [in_thread(lambda id=id: count(id)) for id in "aabbccdd"]  # type: ignore[misc]
        for thread in threads:
            thread.result()
        assert [memory.read(id) for id in "abcd"] == [{"n": 100}] * 4


class TestSettings:
    @pytest.mark.parametrize(
        ("cluster", "says"),
        [
            ("redis://127.0.0.1", "must be a list with the URLs of some of its nodes, not str"),
            ([], "not empty"),
            (5, "not int"),
            (["127.0.0.1:6379"], r"cluster\[0\] must be a URL as redis://user:password@host:6379"),
            (["redis://127.0.0.1", "redis://:secret@127.0.0.1:port"], r"cluster\[1\] must be a URL"),
            (["redis://127.0.0.1/7"], "without a database"),
            ([None], r"cluster\[0\]"),
            (["redis://:secret@127.0.0.1", "redis://:hidden@127.0.0.1:7000"], "must differ in host and port alone"),
        ],
    )
    def test_an_address_that_is_none_is_refused_and_no_password_is_told(self, cluster: Any, says: str) -> None:
        with pytest.raises(InvalidConfiguration, match=says) as refused:
            RedisMachineMemory(cluster=cluster)
        assert "secret" not in str(refused.value)

    def test_two_addresses_are_refused(self) -> None:
        with pytest.raises(InvalidConfiguration, match="client and cluster are two addresses"):
            RedisMachineMemory(cluster=["redis://127.0.0.1"], client=redis.Redis())

    def test_a_timeout_is_a_clusters(self) -> None:
        with pytest.raises(InvalidConfiguration, match="socket_timeout goes with cluster"):
            RedisMachineMemory(client=redis.Redis(), socket_timeout=1)
        with pytest.raises(InvalidConfiguration, match="socket_timeout must be a positive float, not 'soon'"):
            RedisMachineMemory(cluster=["redis://127.0.0.1"], socket_timeout="soon")  # type: ignore[arg-type]


class TestANodeThatFails:
    """What the others have goes on."""

    @pytest.fixture
    def stopped(self, nodes: RedisNodes, memory: RedisMachineMemory) -> Iterator[RedisServer]:
        for node in nodes.primaries:
            nodes.client_of(node).config_set("cluster-require-full-coverage", "no")
        index: Any = memory.store
        server = next(node for node in nodes.primaries if node is not nodes.owner(index._indexes.due.key))
        yield server
        server.resume()
        nodes.wait()
        for node in nodes.primaries:
            nodes.client_of(node).config_set("cluster-require-full-coverage", "yes")

    def test_it_is_felt_where_its_machines_are_asked_for(self, nodes: RedisNodes, stopped: RedisServer) -> None:
        memory = RedisMachineMemory(cluster=nodes.urls, key_prefix=PREFIX, socket_timeout=0.3)
        ids = [f"m{number}" for number in range(30)]
        gone = [id for id in ids if nodes.owner(f"{PREFIX}machine:{id}") is stopped]
        there = [id for id in ids if id not in gone]
        assert gone and there
        for id in ids:
            memory.write(id, {}, wake_at=timedelta(0))
        batch = memory.leases(ids, ttl=600)
        with batch as held:
            stopped.stop()
            leases = [(lease.id, lease._token, 600.0) for lease in held]
            renewed, over = memory.store.renew_each(leases)
            assert renewed == {lease._token for lease in held if lease.id in there}
            assert over == set()
            with pytest.raises(CommitRefused) as failed:
                held.commit({id: {"n": 1} for id in ids})
            assert all(isinstance(error, WriteError) for error in failed.value.exceptions)
            assert set(held.refused) == set(gone)
            assert set(held.committed) == set(there)
            assert [memory.read(id) for id in there] == [{"n": 1}] * len(there)
            released = memory.store.release_each(leases)
            assert released == renewed
            stopped.resume()

    def test_what_is_due_elsewhere_is_claimed(self, nodes: RedisNodes, stopped: RedisServer) -> None:
        memory = RedisMachineMemory(cluster=nodes.urls, key_prefix=PREFIX, socket_timeout=0.3)
        ids = [f"m{number}" for number in range(30)]
        there = {id for id in ids if nodes.owner(f"{PREFIX}machine:{id}") is not stopped}
        for id in ids:
            memory.write(id, {}, wake_at=timedelta(0))
        stopped.kill()
        try:
            with memory.claim(ttl=600) as batch:
                assert {lease.id for lease in batch} == there
                with pytest.raises(LockError, match="NotConnected"), memory.claim():
                    pytest.fail("what is due on a node that is gone was claimed")
        finally:
            stopped.start()


class TestANodeThatJoins:
    def test_it_is_asked_once_it_has_a_slot(self, nodes: RedisNodes, memory: RedisMachineMemory) -> None:
        memory.write("a", {"n": 1})
        joined = nodes.start_node()
        nodes.meet(joined)
        until(lambda: joined.port in [port for port in self.known(nodes, joined) if port])
        nodes.primaries.append(joined)
        source, _ = parted(nodes, "a")
        try:
            until(lambda: nodes._is_ready(joined))
            nodes.begin_to_move(slot_of("a"), source, joined)
            with memory.lease("a") as lease:
                nodes.move_keys(slot_of("a"), source, joined)
                lease.write({"n": 2})  # Of a node that has no slot yet.
                nodes.end_to_move(slot_of("a"), joined)
                assert lease.commit({"n": 3}) == 3
            assert nodes.client_of(joined).dbsize() == 1
            assert [summary.id for summary in memory.find()] == ["a"]
        finally:
            nodes.begin_to_move(slot_of("a"), joined, source)
            nodes.move_keys(slot_of("a"), joined, source)
            nodes.primaries.remove(joined)  # Without a slot it is a replica.
            nodes.end_to_move(slot_of("a"), source)
            for node in nodes.primaries:
                nodes.client_of(node).execute_command("CLUSTER FORGET", nodes.id_of(joined))
            joined.kill()
        assert memory.read("a") == {"n": 3}

    def known(self, nodes: RedisNodes, joined: RedisServer) -> list[int]:
        """Return the ports of the nodes that all others know."""
        there = [str(nodes.client_of(node).execute_command("CLUSTER NODES")) for node in nodes.primaries]
        return [joined.port] if all(f":{joined.port}" in text for text in there) else []


class TestAllGone:
    def test_it_is_an_error_and_they_are_found_again(self) -> None:
        with RedisNodes(appendonly="yes", appendfsync="always") as nodes:
            nodes.wait()
            memory = RedisMachineMemory(cluster=nodes.urls, key_prefix=PREFIX, socket_timeout=2)
            memory.write("a", {"n": 1})
            assert memory.lock("held", ttl=600) is True
            for node in nodes.primaries:
                node.kill()
            with pytest.raises(ReadError, match="NotConnected"):
                memory.read("a")
            with pytest.raises(LockError):
                memory.lock("a")
            with pytest.raises(WriteError) as failed:
                memory.write("a", {"n": 2})
            assert type(failed.value) is WriteError
            with pytest.raises(ReadError):
                list(memory.held_locks())
            assert memory.unlock("held") is False
            for node in nodes.primaries:
                node.start()
            nodes.wait()
            assert memory.read("a") == {"n": 1}
            assert [info.id for info in memory.held_locks()] == ["held"]
            assert memory.write("held", {"n": 1}) == 1


@contextmanager
def configured(**options: Any) -> Iterator[None]:
    with override_settings(MACHINE_MEMORIES={"default": {"BACKEND": BACKEND, "OPTIONS": options}}):
        yield


class TestTheDoctor:
    """And ``check --deploy``: they look at every node."""

    def test_each_node_is_looked_at(self, nodes: RedisNodes) -> None:
        first, second, third = (f"primary 127.0.0.1:{node.port}" for node in nodes.primaries)
        nodes.client_of(nodes.primaries[1]).config_set("maxmemory-policy", "allkeys-lru")
        nodes.client_of(nodes.primaries[2]).config_set("appendonly", "yes")
        try:
            with configured(cluster=nodes.urls):
                assert check_settings() == []
                texts = [f"{message.id} {message.msg}" for message in check_servers()]
                found = [(finding.check, finding.text) for finding in examine("default")]
        finally:
            nodes.client_of(nodes.primaries[1]).config_set("maxmemory-policy", "noeviction")
            nodes.client_of(nodes.primaries[2]).config_set("appendonly", "no")
        assert len(texts) == 6
        for node in (first, second, third):
            assert ("connection", f"{node} answers.") in found
            assert ("clock", f"{node}: The store's clock is that of this host, to a second.") in found
            assert any(text.startswith(f"machine_memory.W107 {node} has no replica") for text in texts)
        assert any(text.startswith(f"machine_memory.W102 {second} evicts by allkeys-lru") for text in texts)
        kept = [text.split()[2] for text in texts if text.startswith("machine_memory.W103")]
        assert kept == [f"127.0.0.1:{node.port}" for node in nodes.primaries[:2]]
        assert found[-1][0] == "round trip" and found[-1][1].startswith("lock ")

    def test_one_that_does_not_answer_is_named(self, nodes: RedisNodes) -> None:
        stopped = nodes.primaries[2]
        memory = RedisMachineMemory(cluster=nodes.urls, socket_timeout=0.3)
        stopped.stop()
        try:
            probes = dict(memory.store.probes())
            verdicts = list(probes["connection"]())
            assert [level for level, _ in verdicts] == ["ok", "ok", "error"]
            assert verdicts[2][1] == f"primary 127.0.0.1:{stopped.port} does not answer (NotConnected)."
            assert len(list(probes["clock"]())) == 2
            assert "W104" in str(list(memory.store.check(deploy=True)))
        finally:
            stopped.resume()
            nodes.wait()

    def test_an_alias_that_leads_to_one_node_is_told(self, nodes: RedisNodes) -> None:
        cache = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": nodes.primaries[0].url}
        with override_settings(CACHES={"default": cache}), configured():
            found = {str(message.id): message for message in check_servers()}
        assert found["machine_memory.E103"].msg.startswith("This is one node of a Redis Cluster")
        assert found["machine_memory.E103"].is_serious()

    def test_so_is_a_cluster_that_is_none(self) -> None:
        with RedisServer(programs()[-1]) as server, configured(cluster=[server.url]):
            (found,) = check_servers()
            assert found.id == "machine_memory.E103"
            with pytest.raises(InvalidConfiguration, match="leads to a server that is no node of a cluster"):
                memories["default"].read("a")

    def test_nobody_to_ask_is_told(self) -> None:
        with configured(cluster=["redis://127.0.0.1:1"]):
            (found,) = check_servers()
        assert found.id == "machine_memory.W104" and "The cluster did not say" in found.msg

    @needs("redis cluster")
    def test_the_least_user_may_not_say_how_nodes_are_set_up(self) -> None:
        servers.wait_for_cluster("redis cluster")
        found = list(memories["redis-cluster"].store.check(deploy=True))
        assert {message.id for message in found} == {"machine_memory.W104"}
        assert len(found) == 3 and "NoPermissionError" in found[0].msg

    def test_a_node_that_knows_of_nothing_is_no_guide(self, nodes: RedisNodes) -> None:
        with RedisServer(programs()[-1], port=str(spare_port()), cluster_enabled="yes") as stranger:
            memory = RedisMachineMemory(cluster=[stranger.url, nodes.urls[0]], key_prefix=PREFIX)
            assert memory.write("a", {}) == 1
            lost = RedisMachineMemory(cluster=[stranger.url], key_prefix=PREFIX)
            with pytest.raises(LockError, match="ClusterDownError"):
                lost.lock("a")

    def test_hints_that_are_missing_are_counted(self, nodes: RedisNodes, memory: RedisMachineMemory) -> None:
        for number in range(5):
            memory.write(f"m{number}", {}, metadata=Metadata(parent="p"))
        index: Any = dict(memory.store.probes())["index"]
        assert list(index()) == [("ok", "No hint is missing, of 5 machines that were looked at.")]
        for kind in ("children", "tree"):
            redis.RedisCluster.from_url(nodes.urls[0]).delete(f"{PREFIX}machine:({kind})p")
        ((level, text),) = index()
        assert level == "warning"
        assert text.startswith("Of 5 machines that were looked at, 10 hints are missing")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=redis"
    more = ["-keyout", str(key), "-out", str(cert), "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*make.split(), *more], check=True, capture_output=True)
    return {"key": key, "cert": cert}


@needs("redis by TLS")
class TestTLS:
    def test_every_node_is_talked_to_by_it(self, certificate: dict[str, Path]) -> None:
        key, cert = certificate["key"], certificate["cert"]
        tls = {"tls_cert_file": str(cert), "tls_key_file": str(key), "tls_ca_cert_file": str(cert)}
        with RedisNodes(tls={**tls, "tls_auth_clients": "no"}) as nodes:
            nodes.wait()
            ports = [node.port + 1 for node in nodes.primaries]
            trusting = [f"rediss://127.0.0.1:{port}?ssl_ca_certs={cert}" for port in ports]
            memory: Any = RedisMachineMemory(cluster=trusting[:1], key_prefix=PREFIX, socket_timeout=5)
            for number in range(20):
                memory.write(f"m{number}", {"n": number})
            assert len(list(memory.find())) == 20
            assert {port for _, port in memory.store._servers._nodes} == set(ports)
            stranger = RedisMachineMemory(cluster=[f"rediss://127.0.0.1:{port}" for port in ports])
            with pytest.raises(LockError):
                stranger.lock("a")
