"""The connections of a memory: which are used again, and what a failure to get one says."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from machine_memory import LockError, RedisMachineMemory, WriteError
from tests.redis.server import RedisServer
from tests.redis.store import client_of, sent_by
from tests.redis.test_redis import memory_on, private


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with private() as server:
        yield server


def with_one_connection(server: RedisServer, kind: type[redis.ConnectionPool], **options: Any) -> RedisMachineMemory:
    """Return a memory that has a single connection to share, and waits for it only for a moment."""
    options |= {"timeout": 0.01} if kind is redis.BlockingConnectionPool else {}
    pool = kind.from_url(server.url, max_connections=1, **{"socket_timeout": 2, **options})
    return RedisMachineMemory(client=redis.Redis(connection_pool=pool))


POOLS = pytest.mark.parametrize("kind", [redis.ConnectionPool, redis.BlockingConnectionPool])


class TestInterruptions:
    """A signal's exception may come at any line."""

    def test_a_connection_that_was_interrupted_in_its_greeting_is_not_used(
        self, server: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fifth = server.url.replace("/0", "/5")
        memory = memory_on(fifth)
        connection_class = client_of(memory).connection_pool.connection_class
        send = connection_class.send_command

        def interrupted(connection: Any, *command: Any, **options: Any) -> None:
            if command[0] == "SELECT":
                raise KeyboardInterrupt
            send(connection, *command, **options)

        # Another thread may ask before this one starts afresh.
        monkeypatch.setattr(memory.store, "start_afresh", lambda: None)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(connection_class, "send_command", interrupted)
            memory.read("a")
        memory.write("a", {})
        assert redis.Redis.from_url(server.url).dbsize() == 0
        assert redis.Redis.from_url(fifth).dbsize() == 1

    @POOLS
    def test_a_connection_that_is_taken_as_one_comes_is_not_lost(
        self, server: RedisServer, kind: type[redis.ConnectionPool], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        memory = with_one_connection(server, kind)
        pool = client_of(memory).connection_pool
        get = pool.get_connection

        def interrupted(*args: Any) -> Any:
            get(*args)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(pool, "get_connection", interrupted)
            memory.read("a")
        assert memory.write("a", {}) == 1

    @POOLS
    def test_one_that_lies_idle_is_not_used_again_once_one_has_failed(
        self, server: RedisServer, kind: type[redis.ConnectionPool]
    ) -> None:
        memory = with_one_connection(server, kind)
        memory.write("a", {})
        with sent_by(memory) as sent:
            memory.read("a")
        assert "CLIENT" not in "".join(sent)
        memory.store.start_afresh()
        with sent_by(memory) as sent:
            memory.read("a")
        assert "CLIENT" in "".join(sent), "it greets the server"


class TestNoConnection:
    """Nothing was sent, so it is known what has become of it: nothing."""

    @POOLS
    def test_where_all_are_in_use(self, server: RedisServer, kind: type[redis.ConnectionPool]) -> None:
        memory = with_one_connection(server, kind)
        pool: Any = client_of(memory).connection_pool
        taken = pool.get_connection("_") if redis.VERSION < (5, 3) else pool.get_connection()
        taken.user = None  # Another thread's.
        for verb, error in ((memory.lock, LockError), (memory.cleanup, WriteError)):
            with pytest.raises(error, match="NotConnected") as failed:
                verb("a")
            assert type(failed.value) is error
        pool.release(taken)
        assert memory.lock("a") is True

    def test_where_the_server_is_asked_first_whether_it_answers(self, server: RedisServer) -> None:
        memory = with_one_connection(server, redis.ConnectionPool, health_check_interval=600, socket_timeout=0.3)
        memory.write("a", {})
        pool: Any = client_of(memory).connection_pool
        pool._available_connections[0].next_health_check = 0
        server.stop()
        try:
            with pytest.raises(WriteError, match="NotConnected") as failed:
                memory.write("a", {})
            assert type(failed.value) is WriteError
        finally:
            server.resume()
        assert memory.write("a", {}) == 2


class TestTheDoctor:
    @pytest.mark.parametrize(
        ("location", "address"),
        [
            ("redis://", "localhost:6379"),
            ("redis://nowhere", "nowhere:6379"),
            ("unix:///nowhere.sock", "/nowhere.sock"),
        ],
    )
    def test_it_says_where_nobody_answers_whatever_the_address_leaves_out(
        self, location: str, address: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        memory = memory_on(location)
        assert memory.store.host == address

        def refused(client: Any) -> None:
            raise redis.ConnectionError("refused")

        monkeypatch.setattr(redis.Redis, "time", refused)
        answers: Any = dict(memory.store.probes())["connection"]
        with pytest.raises(Exception, match=f"Redis at {address} does not answer"):
            list(answers())


class TestNotifications:
    def test_a_server_that_moves_is_not_asked_to_say_so(self, server: RedisServer) -> None:
        """To connect anew before an answer is handed over may lose that."""
        memory = memory_on(server.url, protocol=3)
        with sent_by(memory) as sent:
            memory.write("a", {})
        assert "HELLO" in "".join(sent)
        assert "MAINT_NOTIFICATIONS" not in "".join(sent)
