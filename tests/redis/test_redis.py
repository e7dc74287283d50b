"""What is particular about Redis: its faults, its keys, its settings, and what else may be in them."""

import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from django.core.cache import caches
from django.test import override_settings
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from machine_memory import (
    CorruptRecord,
    InvalidConfiguration,
    LockError,
    LockLost,
    Metadata,
    ReadError,
    RedisMachineMemory,
    StoreError,
    UnknownOutcome,
    WriteError,
    memories,
)
from machine_memory.backends.redis import scripts
from tests import servers
from tests.contract.suite import HOSTILE_IDS
from tests.redis.counting import IDS, all_go_on, counting
from tests.redis.server import RedisServer, programs
from tests.redis.store import RedisStore, client_of, sent_by

HOUR = 60 * 60 * 1000


@contextmanager
def private(**settings: str) -> Iterator[RedisServer]:
    """Run a server that a test may do to as it likes."""
    with RedisServer(programs()[-1], **settings) as server:
        yield server


def memory_on(url: str, **options: Any) -> RedisMachineMemory:
    options = {"socket_timeout": 2, "socket_connect_timeout": 2, **options}
    return RedisMachineMemory(client=redis.Redis.from_url(url, **options))


class TestCommands:
    def test_a_lease_and_its_commit_are_two(self, redis_store: RedisStore) -> None:
        redis_store.memory.write("a", {})
        redis_store.memory.unlock("a")
        with redis_store.memory.lease("b"):
            pass  # Every script is known from here on.
        with redis_store.asked() as commands, redis_store.memory.lease("a") as lease:
            lease.commit({"n": 1})
        assert len(commands) == 2

    def test_so_are_those_that_the_server_counts(self) -> None:
        with private() as server:
            memory = memory_on(server.url)
            with memory.lease("a") as lease:
                lease.commit({})
            client = redis.Redis.from_url(server.url)
            client.config_resetstat()
            with memory.lease("a") as lease:
                lease.commit({})
            calls: Any = client.info("commandstats")
            assert calls["cmdstat_evalsha"]["calls"] == 2
            assert not {"cmdstat_eval", "cmdstat_script|load", "cmdstat_ping"} & set(calls)

    def test_a_server_that_has_forgotten_the_scripts_is_told_again(self, redis_store: RedisStore) -> None:
        redis_store.memory.write("a", {"n": 1})
        redis_store.client.script_flush()

        assert redis_store.memory.write("a", {"n": 2}) == 2

    def test_none_takes_a_pattern_that_is_made_of_an_id(self, redis_store: RedisStore) -> None:
        memory, id = redis_store.memory, "*[a-z]?{slot}"
        with redis_store.asked() as commands:
            with memory.lease(id) as lease:
                lease.commit({}, metadata=Metadata(parent=f"{id} parent"))
            memory.read(id), memory.record(id), memory.force_unlock(id)
            memory.children(id), memory.tree(id), list(memory.held_locks()), memory.purge_expired_locks()
            memory.cleanup(id)
        patterns = [command for command in commands if "\\nSCAN\\r" in command or "KEYS\\r" in command]
        assert len(patterns) >= 2
        assert all(f"{servers.PREFIX}:1:machine:*" in pattern and "slot" not in pattern for pattern in patterns)

    def test_the_parents_root_is_asked_for_by_the_first_write_alone(self, one_redis: RedisStore) -> None:
        asked = []
        for _ in range(2):
            with one_redis.asked() as commands, one_redis.memory.lease("a") as lease:
                lease.write({"parentSubject": "p"})
            asked.append(len([command for command in commands if "HMGET" in command and "EVAL" not in command]))
        assert asked == [1, 0]


def with_version_last(key: str, prefix: str, version: int) -> str:
    return f"{prefix}:{key}@{version}"


class TestKeys:
    @pytest.mark.parametrize("prefix", ["", "{slot}", "*[a-z]?\\^", "a:1", "line\nbreak \N{EGG}", "machine:"])
    def test_ids_are_distinct_under_any_prefix(self, one_redis: RedisStore, prefix: str) -> None:
        options = {**caches.settings[one_redis.alias], "KEY_PREFIX": f"{servers.PREFIX}:{prefix}"}
        with override_settings(CACHES={"default": options, "other": {**options, "VERSION": 11}}):
            memory, other = RedisMachineMemory(), RedisMachineMemory(cache="other")
            for id in HOSTILE_IDS:
                memory.write(id, {"id": id})
            for id in HOSTILE_IDS:
                assert memory.read(id) == {"id": id}
                assert memory.lock(id)
                assert other.read(id) is None
            assert sorted(info.id for info in memory.held_locks()) == sorted(HOSTILE_IDS)
            assert list(other.held_locks()) == []

    def test_a_function_may_put_the_version_last(self, one_redis: RedisStore) -> None:
        options = {**caches.settings[one_redis.alias], "KEY_FUNCTION": f"{__name__}.with_version_last"}
        with override_settings(CACHES={"default": options, "other": {**options, "VERSION": 11}}):
            memory, other = RedisMachineMemory(), RedisMachineMemory(cache="other")
            memory.write("12", {})
            assert other.read("2") is None
            assert other.lock("2")
            assert memory.lock("12")

    def test_a_machine_without_state_goes_an_hour_after_its_lease(self, redis_store: RedisStore) -> None:
        redis_store.memory.lock("a", ttl=60)
        assert HOUR < redis_store.client.pttl(redis_store.key("a")) <= HOUR + 60_001

        with redis_store.memory.lease("b", ttl=60) as lease:
            lease.renew(600)
            assert HOUR + 60_000 < redis_store.client.pttl(redis_store.key("b")) <= HOUR + 600_001

    def test_nor_does_it_go_before_it_is_due(self, redis_store: RedisStore) -> None:
        memory, key = redis_store.memory, redis_store.key("a")
        memory.lock("a")
        redis_store.expire("a")
        redis_store.client.hset(key, "attempts", 5)
        with memory.claim(expired=True, ttl=5 * 60 * 60, max_attempts=9) as batch:
            assert len(batch) == 1
        due_at = int(redis_store.client.hget(key, "wake_at")) / 1000
        now = redis_store._time(0) / 1000
        assert redis_store.client.pttl(key) > due_at - now > 150 * HOUR
        with memory.lease("a", ttl=30) as lease:
            lease.renew()
            assert redis_store.client.pttl(key) > due_at - now

    def test_a_machine_with_state_stays(self, redis_store: RedisStore) -> None:
        redis_store.memory.lock("a")
        redis_store.memory.write("a", {})
        redis_store.memory.unlock("a")
        redis_store.memory.lock("a")

        assert redis_store.client.ttl(redis_store.key("a")) == -1

    def test_more_than_a_scan_brings_is_found(self, redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("machine_memory.backends.redis.hashes.SCANNED", 3)
        memory = redis_store.memory
        for id in "gfedcba":
            memory.write(id, {}, metadata=Metadata(parent="root"))
            memory.lock(id)

        assert memory.children("root") == memory.tree("root") == list("abcdefg")
        assert [info.id for info in memory.held_locks()] == list("abcdefg")

    def test_another_key_of_the_cache_is_none_of_its_machines(self, redis_store: RedisStore) -> None:
        redis_store.client.set(redis_store.key("b"), "text")
        redis_store.client.hset(redis_store.key("c"), "lease_expires_at", "soon")
        redis_store.memory.lock("a")

        assert [info.id for info in redis_store.memory.held_locks()] == ["a"]


class Canary:
    sang = False

    def __reduce__(self) -> Any:
        return setattr, (Canary, "sang", True)


class TestCorruptRecords:
    @pytest.fixture(autouse=True)
    def silence(self) -> Iterator[None]:
        yield
        assert not Canary.sang

    @pytest.mark.parametrize(
        "stored",
        [pickle.dumps(Canary()), pickle.dumps(Canary(), 0), b"[1]", b"\xff", b'{"\xff": 1}'],
    )
    def test_what_is_no_state_is_never_loaded_and_a_write_mends_it(
        self, redis_store: RedisStore, stored: bytes
    ) -> None:
        memory = redis_store.memory
        memory.write("a", {})
        redis_store.client.hset(redis_store.key("a"), "data", stored)

        for look in (memory.read, memory.record):
            with pytest.raises(CorruptRecord, match="The state of 'a' is a (str|list), not a JSON object"):
                look("a")
        with pytest.raises(CorruptRecord), memory.lease("a"):
            pass
        assert memory.write("a", {"n": 1}) == 2
        assert memory.read("a") == {"n": 1}

    def test_so_is_a_key_that_holds_something_else(
        self, redis_store: RedisStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        memory = redis_store.memory
        redis_store.client.set(redis_store.key("a"), pickle.dumps(Canary()))

        for verb in (memory.read, memory.record, memory.lock, memory.cleanup, memory.force_unlock):
            with pytest.raises(CorruptRecord, match="The key of 'a' holds no hash: something else wrote it"):
                verb("a")
        with pytest.raises(CorruptRecord):
            memory.write("a", {})
        assert memory.unlock("a") is False
        assert "could not unlock a machine" in caplog.text


class TestAPausedServer:
    """It answers nothing: what was sent to it may be carried out once it goes on."""

    @pytest.fixture
    def memory(self) -> Iterator[RedisMachineMemory]:
        retrying = {"retry": Retry(ConstantBackoff(0), 10), "retry_on_timeout": True, "retry_on_error": [Exception]}
        with private() as server:
            memory = memory_on(server.url, socket_timeout=0.2, **retrying)
            assert memory.lock("held") is True
            server.stop()
            yield memory
            server.resume()

    def test_a_write_makes_one_attempt_whatever_the_client_is_told(self, memory: RedisMachineMemory) -> None:
        with sent_by(memory) as commands, pytest.raises(UnknownOutcome) as failed:
            memory.write("held", {})
        assert isinstance(failed.value.__cause__, redis.TimeoutError)
        assert len(commands) == 1

    def test_a_lock_makes_one_attempt_and_waits_once(self, memory: RedisMachineMemory) -> None:
        with sent_by(memory) as commands, pytest.raises(LockError) as failed:
            memory.lock("a")
        assert isinstance(failed.value.__cause__, redis.TimeoutError)
        # What may have been granted is given back in the background.
        assert len([command for command in commands if scripts.ACQUIRE.digest in command]) == 1

    def test_so_it_is_on_a_new_connection(self, memory: RedisMachineMemory) -> None:
        client_of(memory).connection_pool.disconnect()
        with sent_by(memory) as commands, pytest.raises(StoreError):
            memory.write("held", {})
        assert len(commands) <= 1  # Nothing, or the greeting of a connection.

    def test_unlock_is_false_and_can_be_repeated(self, memory: RedisMachineMemory) -> None:
        with sent_by(memory) as commands:
            assert memory.unlock("held") is False
            assert memory.unlock("held") is False
        assert len([command for command in commands if "EVALSHA" in command]) <= 2


class TestALostMemory:
    """A server that comes back without its latest writes, or without any."""

    def test_the_old_lease_is_over_and_fences_go_on(self) -> None:
        with private() as server:
            memory = memory_on(server.url)
            with memory.lease("a") as before:
                before.write({"n": 1})
                server.kill()
                server.start()

                assert memory.read("a") is None
                with pytest.raises(LockLost):
                    before.write({"n": 2})
                with pytest.raises(LockLost):
                    before.renew()
                assert memory.read("a") is None
            with memory.lease("a") as after:
                assert after.fence > before.fence

    def test_of_a_lease_that_was_lost_in_a_failover_the_fence_does_not_come_again(
        self, redis_store: RedisStore
    ) -> None:
        memory, key = redis_store.memory, redis_store.key("a")
        memory.write("a", {"n": 1})
        replica = redis_store.client.dump(key)  # What the replica knew.
        with memory.lease("a") as lost:
            redis_store.client.restore(key, 0, replica, replace=True)
            with redis_store.new_memory().lease("a") as lease:
                assert lease.fence > lost.fence
                with pytest.raises(LockLost):
                    lost.commit({"n": 2})
                lease.commit({"n": 3})
        assert memory.read("a") == {"n": 3}

    @pytest.mark.timeout(120)
    def test_killed_and_restarted_under_load_it_loses_no_acknowledged_write(self) -> None:
        with (
            private(appendonly="yes", appendfsync="always") as server,
            counting(memory_on(server.url), ttl=0.2) as workers,
        ):
            for _ in range(10):
                all_go_on(workers, steps=20)
                server.kill()
                server.start()
        assert all(worker.failed for worker in workers)
        assert [worker.lost for worker in workers] == [0] * len(IDS)


class TestAServerThatRefuses:
    def test_out_of_memory_is_an_error_and_reads_go_on(self) -> None:
        with private(maxmemory="3mb", maxmemory_policy="noeviction") as server:
            memory = memory_on(server.url)
            memory.write("a", {"n": 1})
            assert memory.lock("a") is True
            for size in (100_000, 1_000, 1):
                with pytest.raises(WriteError) as failed:
                    for number in range(10_000):
                        memory.write(f"filler {size} {number}", {"text": "x" * size})
                assert type(failed.value) is WriteError
            with pytest.raises(LockError):
                for number in range(10_000):
                    memory.lock(f"b {number}")
            assert memory.read("a") == {"n": 1}
            assert memory.unlock("a") is True

    def test_a_replica_takes_neither_locks_nor_writes(self) -> None:
        with private() as server:
            memory = memory_on(server.url)
            memory.write("a", {"n": 1})
            redis.Redis.from_url(server.url).replicaof("127.0.0.1", str(server.port))

            with pytest.raises(LockError):
                memory.lock("a")
            with pytest.raises(WriteError) as failed:
                memory.write("a", {"n": 2})
            assert type(failed.value) is WriteError
            assert memory.read("a") == {"n": 1}

    def test_a_wrong_password_is_not_tried_again(self) -> None:
        with private(requirepass="right") as server:
            memory = memory_on(server.url.replace("//", "//:wrong@"))
            memory._reads._retrying.sleep = lambda seconds: pytest.fail("it was tried again")

            with pytest.raises(ReadError, match="AuthenticationError"):
                memory.read("a")
            with pytest.raises(WriteError) as failed:
                memory.write("a", {})
            assert type(failed.value) is WriteError
            assert "wrong" not in f"{failed.value}{failed.value.__cause__}"


class TestClients:
    @pytest.mark.parametrize("options", [{"decode_responses": True}, {"protocol": 3}, {"encoding": "latin-1"}])
    def test_how_one_is_told_to_reply_does_not_matter(self, one_redis: RedisStore, options: dict[str, Any]) -> None:
        url = one_redis.location
        memory = RedisMachineMemory(client=redis.Redis.from_url(url, **options), key_prefix=f"{servers.PREFIX}:1:")
        with memory.lease("ä") as lease:
            lease.commit({"ä": "😀"})

        assert one_redis.memory.read("ä") == memory.read("ä") == {"ä": "😀"}
        assert memory.lock("ä")
        assert [info.id for info in memory.held_locks()] == ["ä"]

    def test_a_pool_that_waits_goes_on_waiting(self, one_redis: RedisStore) -> None:
        pool = redis.BlockingConnectionPool.from_url(one_redis.location, max_connections=1, timeout=7)
        memory = RedisMachineMemory(client=redis.Redis(connection_pool=pool), key_prefix=f"{servers.PREFIX}:1:")

        assert memory.lock("a") is True
        own = client_of(memory).connection_pool
        assert isinstance(own, redis.BlockingConnectionPool)
        assert (own.max_connections, own.timeout) == (1, 7)

    def test_the_one_that_is_given_stays_as_it_is(self, one_redis: RedisStore) -> None:
        retry = Retry(ConstantBackoff(1), 3)
        client = redis.Redis.from_url(one_redis.location, retry=retry)
        RedisMachineMemory(client=client)

        assert client.connection_pool.connection_kwargs["retry"] is retry
        assert client.connection_pool.connection_class is redis.Connection

    @pytest.mark.parametrize("client", [object(), "redis://", redis.ConnectionPool()])
    def test_something_else_is_refused(self, client: Any) -> None:
        with pytest.raises(InvalidConfiguration, match="client must be a redis.Redis or a redis.RedisCluster, not"):
            RedisMachineMemory(client=client)


class TestConfiguration:
    def test_an_unknown_cache_is_named(self) -> None:
        with pytest.raises(InvalidConfiguration, match=r"'nowhere' is not in CACHES \(default, .*\): see `cache`"):
            RedisMachineMemory(cache="nowhere")

    def test_so_it_is_in_the_settings(self) -> None:
        params = {"BACKEND": "machine_memory.backends.redis.RedisMachineMemory", "OPTIONS": {"cache": "nowhere"}}
        with (
            override_settings(MACHINE_MEMORIES={"default": params}),
            pytest.raises(InvalidConfiguration, match=r"MACHINE_MEMORIES\['default'\]: 'nowhere' is not in CACHES"),
        ):
            memories["default"].read("a")

    def test_a_cache_of_another_kind_is_refused(self) -> None:
        with pytest.raises(InvalidConfiguration, match=r"CACHES\['default'\] must be a django_redis.cache.RedisCache"):
            RedisMachineMemory(cache="default")

    def test_a_sharded_client_is_refused(self) -> None:
        options = {"CLIENT_CLASS": "django_redis.client.ShardClient"}
        sharded = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": ["redis://127.0.0.1"], "OPTIONS": options}
        with override_settings(CACHES={"default": sharded}), pytest.raises(InvalidConfiguration, match="not sharded"):
            RedisMachineMemory()

    def test_without_django_redis_it_says_what_to_install(
        self, one_redis: RedisStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "django_redis", None)
        with pytest.raises(
            InvalidConfiguration, match=r"`cache` needs django-redis .*: install machine-memory\[redis\]"
        ):
            RedisMachineMemory(cache=one_redis.alias)

    def test_an_outage_is_an_error_also_where_the_cache_ignores_it(self) -> None:
        options = {"IGNORE_EXCEPTIONS": True, "SOCKET_CONNECT_TIMEOUT": 1}
        down = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": "redis://127.0.0.1:1", "OPTIONS": options}
        with override_settings(CACHES={"default": down}):
            memory = RedisMachineMemory(read_attempts=1)
            with pytest.raises(ReadError):
                memory.read("a")
