"""A server that answers, but not with what it was asked for: it is busy, loads, or is a replica by now."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1
from typing import Any

import pytest
import redis
from redis.sentinel import Sentinel

from machine_memory import CommitRefused, LockError, ReadError, RedisMachineMemory, WriteError
from machine_memory.backends.redis import scripts
from tests.clusters.redis_cluster import until
from tests.proxy import Proxy
from tests.redis.server import RedisServer
from tests.redis.store import client_of
from tests.redis.test_redis import memory_on, private


@contextmanager
def busy(server: RedisServer) -> Iterator[None]:
    """Let a script of somebody else's run for as long as the block."""
    client = redis.Redis.from_url(server.url)

    def run() -> None:
        with pytest.raises(redis.ResponseError, match="killed"):
            client.eval("while true do end", 0)

    def is_busy() -> bool:
        try:
            return not client.ping()
        except redis.ResponseError:
            return True

    script = threading.Thread(target=run)
    script.start()
    try:
        until(is_busy)
        yield
    finally:
        client.script_kill()
        script.join(10)


class TestABusyServer:
    """It refuses all, TIME included, while a script of somebody else's runs for too long."""

    @pytest.fixture
    def server(self) -> Iterator[RedisServer]:
        with private(lua_time_limit="10") as server:
            yield server

    def test_what_is_asked_for_together_is_an_error_of_the_store(self, server: RedisServer) -> None:
        memory = memory_on(server.url)
        with busy(server):
            for look in (memory.children, memory.tree, memory.holder):
                with pytest.raises(ReadError, match=r"\(ResponseError\)"):
                    look("a")
            with pytest.raises(LockError, match=r"\(ResponseError\)"), memory.leases(["a", "b"]):
                pass
            with pytest.raises(LockError, match=r"\(ResponseError\)"), memory.claim():
                pass
        assert memory.lock("a") is True

    def test_a_lease_is_none_the_worse_for_it(self, server: RedisServer) -> None:
        memory = memory_on(server.url)
        with memory.lease("a", ttl=60) as lease:
            with busy(server), pytest.raises(redis.ResponseError, match="BUSY"):
                memory.store.renew_each([lease._ref])
            assert memory.store.renew_each([lease._ref]) == ({lease._token}, set())
            lease.commit({"n": 1})

    def test_where_only_the_time_is_refused_nobody_knows_what_was_done(
        self, server: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        memory = memory_on(server.url)
        execute = redis.client.Pipeline.execute

        def without_time(pipeline: redis.client.Pipeline, raise_on_error: bool = True) -> list[object]:
            _, *replies = execute(pipeline, raise_on_error)
            return [redis.ResponseError("BUSY Redis is busy running a script"), *replies]

        monkeypatch.setattr(redis.client.Pipeline, "execute", without_time)
        with pytest.raises(LockError, match=r"\(ConnectionError\)"), memory.leases(["a", "b"]):
            pass


class TestAPrimaryThatIsOneNoMore:
    """Behind a name, an address or a proxy that leads to another server by now."""

    def test_the_next_step_takes_another_connection(self) -> None:
        with private() as before, private() as after:
            proxy = Proxy(("127.0.0.1", before.port))
            memory = memory_on(f"redis://127.0.0.1:{proxy.port}")
            try:
                memory.write("a", {})
                redis.Redis.from_url(before.url).replicaof("127.0.0.1", str(after.port))
                proxy._target = ("127.0.0.1", after.port)
                with pytest.raises(LockError):
                    memory.lock("a")
                assert memory.lock("a") is True
                assert redis.Redis.from_url(after.url).exists("machine:a")
            finally:
                client_of(memory).connection_pool.disconnect()
                proxy.close()

    def test_behind_sentinel_too_it_has_refused(self) -> None:
        with private() as server:
            sentinel: Any = Sentinel([])  # type: ignore[no-untyped-call]
            sentinel.discover_master = lambda service: ("127.0.0.1", server.port)
            memory = RedisMachineMemory(client=sentinel.master_for("primary", socket_timeout=2))
            memory.write("a", {})
            redis.Redis.from_url(server.url).replicaof("127.0.0.1", str(server.port))
            for verb in (memory.cleanup, lambda id: memory.write(id, {})):
                with pytest.raises(WriteError) as failed:
                    verb("a")
                assert type(failed.value) is WriteError


class TestAServerThatLoads:
    """It says so in the midst of a pipeline, whose other commands it has carried out, or will."""

    @pytest.mark.parametrize("refused", ["a", "b", "c"])
    def test_what_it_refused_was_not_done_and_all_else_was(self, refused: str, monkeypatch: pytest.MonkeyPatch) -> None:
        loading = f"if KEYS[1] == 'machine:{refused}' then return {{err='LOADING Redis is loading'}} end\n"
        text = loading + scripts.WRITE.text
        script = scripts.Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())
        with private() as server:
            memory = memory_on(server.url)
            with memory.leases(["a", "b", "c"]) as batch:
                with monkeypatch.context() as patch:
                    patch.setattr(scripts, "WRITE", script)
                    with pytest.raises(CommitRefused):
                        batch.commit({id: {"n": 1} for id in "abc"})
                assert set(batch.committed) == set("abc") - {refused}
                assert type(batch.refused[refused]) is WriteError
                assert {id for id in "abc" if memory.read(id)} == set("abc") - {refused}
                assert batch.commit({refused: {"n": 1}}) == {refused: 1}
