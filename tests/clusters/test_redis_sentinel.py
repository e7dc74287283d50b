"""Behind Sentinel: the primary is whoever it says."""

from collections.abc import Iterator

import pytest
import redis
from django.test import override_settings

from machine_memory import RedisMachineMemory
from tests import servers
from tests.clusters.redis_cluster import until
from tests.clusters.redis_sentinel import Watched, service_at
from tests.clusters.test_redis_failover import FAILOVERS, RECOVERY
from tests.conftest import needs
from tests.redis.counting import IDS, all_go_on, counting
from tests.redis.server import RedisServer

pytestmark = needs("redis sentinel")


@pytest.fixture
def watched() -> Iterator[Watched]:
    with Watched() as watched:
        yield watched


@pytest.fixture
def memory(watched: Watched) -> Iterator[RedisMachineMemory]:
    cache = {"BACKEND": "django_redis.cache.RedisCache", **servers.behind_sentinel(watched.port)}
    with override_settings(CACHES={"default": cache}):
        yield RedisMachineMemory()


def role(watched: Watched, server: RedisServer) -> str | None:
    try:
        return str(watched.client_of(server).info()["role"])
    except redis.ConnectionError:
        return None  # Sentinel has just ended everybody's connections.


def test_nothing_is_against_it(memory: RedisMachineMemory) -> None:
    assert list(memory.store.check(deploy=False)) == []


@pytest.mark.parametrize("careful", [True, False])
def test_after_a_planned_failover_all_go_on_at_the_new_primary(
    watched: Watched, memory: RedisMachineMemory, careful: bool
) -> None:
    """Until Sentinel has told the old one that it is a primary no more, it goes on acknowledging, for nothing.

    Not where it is to have a replica that answers: then it refuses.
    """
    target, before = watched.replica, watched.primary
    if careful:
        watched.client_of(before).config_set("min-replicas-max-lag", 1)
        watched.client_of(before).config_set("min-replicas-to-write", 1)
    with counting(memory) as workers:
        watched.sentinel.sentinel_failover(service_at(watched.port))
        until(lambda: watched.serves(target))
        told = until(lambda: role(watched, before) == "slave")
        recovered = all_go_on(workers, RECOVERY)
    assert watched.client_of(target).dbsize() == len(IDS)
    lost, done = sum(worker.lost for worker in workers), sum(worker.done for worker in workers)
    assert ("errorstat_NOREPLICAS" in watched.client_of(before).info("errorstats")) == careful
    print(f"told after {told:.1f} s, all go on {recovered:.1f} s later, {lost} of {done} lost")  # noqa: T201


@pytest.mark.timeout(300)
def test_after_a_kill_all_go_on_once_there_is_a_new_primary(watched: Watched, memory: RedisMachineMemory) -> None:
    figures = []
    for _ in range(FAILOVERS):
        target, killed = watched.replica, watched.primary
        with counting(memory) as workers:
            killed.kill()
            promoted = until(lambda: watched.serves(target))  # noqa: B023
            recovered = all_go_on(workers, RECOVERY)
        failed, lost = sum(len(worker.failed) for worker in workers), sum(worker.lost for worker in workers)
        figures.append(f"new primary {promoted:.1f} s, all go on {recovered:.1f} s, {failed} failed, {lost} lost")
        killed.start()
    print("\n".join(figures))  # noqa: T201
