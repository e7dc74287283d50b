"""Primaries that go, and slots that move, under load: of a Redis Cluster, and of Sentinel."""

import os
from collections.abc import Iterator

import pytest

from machine_memory import RedisMachineMemory
from tests.clusters.redis_cluster import RedisNodes, until
from tests.clusters.test_redis_cluster import PREFIX, move
from tests.conftest import needs
from tests.redis.counting import IDS, all_go_on, counting
from tests.redis.server import RedisServer

pytestmark = needs("redis nodes")
LARGE = bool(os.environ.get("MACHINE_MEMORY_LARGE"))
FAILOVERS = 5 if LARGE else 1
RECOVERY = 5
"""Seconds after there is a new primary, until everybody works again."""
PATIENT, LONG = 15, 30
"""Seconds that steps and leases last where nothing may fail: a primary pauses writes for up to five to hand over."""


class TestSlotsThatMove:
    def test_nothing_fails_and_nothing_is_lost(self) -> None:
        with RedisNodes() as nodes:
            nodes.wait()
            memory = RedisMachineMemory(cluster=nodes.urls, key_prefix=PREFIX, socket_timeout=PATIENT)
            with counting(memory, ttl=LONG) as workers:
                for _ in range(10 if LARGE else 2):
                    for id in IDS:
                        move(nodes, id)
            assert [failed for worker in workers for failed in worker.failed] == []
            assert [worker.lost for worker in workers] == [0] * len(IDS)


@pytest.fixture(scope="module")
def nodes() -> Iterator[RedisNodes]:
    with RedisNodes(replicas=1) as nodes:
        nodes.wait()
        yield nodes


@pytest.mark.timeout(300)
class TestFailover:
    @pytest.fixture
    def memory(self, nodes: RedisNodes) -> RedisMachineMemory:
        return RedisMachineMemory(cluster=nodes.urls, key_prefix=PREFIX, socket_timeout=1)

    def roles(self, nodes: RedisNodes) -> dict[int, str]:
        return {node.port: nodes.info(node)["role"] for node in nodes.nodes if node.is_running}

    def test_one_that_is_planned_costs_nothing(self, nodes: RedisNodes) -> None:
        memory = RedisMachineMemory(cluster=nodes.urls, key_prefix=PREFIX, socket_timeout=PATIENT)
        with counting(memory, ttl=LONG) as workers:
            for replica in nodes.replicas:
                nodes.client_of(replica).execute_command("CLUSTER FAILOVER")
                until(lambda replica=replica: self.roles(nodes)[replica.port] == "master")  # type: ignore[misc]
        assert [worker.lost for worker in workers] == [0] * len(IDS)
        assert [failed for worker in workers for failed in worker.failed] == []

    def test_after_a_kill_everybody_works_again_once_there_is_a_new_primary(
        self, nodes: RedisNodes, memory: RedisMachineMemory
    ) -> None:
        figures = []
        for _ in range(FAILOVERS):
            owner = nodes.owner(f"{PREFIX}machine:{IDS[0]}")
            primaries = list(self.roles(nodes).values()).count("master")
            with counting(memory) as workers:
                owner.kill()
                promoted = until(lambda: list(self.roles(nodes).values()).count("master") == primaries)  # noqa: B023
                recovered = all_go_on(workers, RECOVERY)
                failed = sum(len(worker.failed) for worker in workers)
            lost, done = sum(worker.lost for worker in workers), sum(worker.done for worker in workers)
            figures.append(
                f"new primary {promoted:.1f} s, all go on {recovered:.1f} s, {failed} failed, {lost} of {done} lost"
            )
            owner.start()
            until(lambda: self.is_replica(nodes, owner))  # noqa: B023
        print("\n".join(figures))  # noqa: T201

    def is_replica(self, nodes: RedisNodes, node: RedisServer) -> bool:
        info = nodes.info(node)
        return bool(info["role"] == "slave" and info["master_link_status"] == "up")
