"""A client of Redis that makes one attempt, on connections of its own, with the settings of another client."""

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.cache import BaseCache, InvalidCacheBackendError, caches
from django.core.checks import CheckMessage
from redis import BlockingConnectionPool, ConnectionError, ConnectionPool, Redis, RedisError, TimeoutError
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    MaxConnectionsError,
    ResponseError,
)
from redis.sentinel import SentinelConnectionPool

from machine_memory.exceptions import InvalidConfiguration
from machine_memory.problems import problem
from machine_memory.validation import quoted

_OTHERWISE = {
    *("retry", "retry_on_timeout", "retry_on_error"),
    *("decode_responses", "encoding", "encoding_errors"),
    "connection_pool",  # Of Sentinel; the pool here has its own.
}
"""What is not taken over: by default nothing is repeated, and replies are bytes."""


class NotConnected(ConnectionError):
    """No connection was made, so nothing was sent."""


if TYPE_CHECKING:
    from redis import Connection as _Connection
else:
    _Connection = object


class _CountsReplies(_Connection):
    """A connection that is closed, never reused, where a reply is still to come: it would be the next question's.

    It also tells a failure to connect from one on the way, which redis-py does not.
    """

    _asked = 1
    """Commands of the next package."""
    user: int | None = None
    """The thread that it was handed out to last."""
    _owed = 0
    """Replies that were not read, whatever exception has come between."""

    def pack_commands(self, commands: Any) -> Any:
        commands = list(commands)
        self._asked = len(commands)
        return super().pack_commands(commands)  # type: ignore[no-untyped-call]

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        if not self._sock:
            self.connect()
        if check_health:
            self.check_health()  # type: ignore[no-untyped-call]
        self._owed, self._asked = self._owed + self._asked, 1
        super().send_packed_command(command, check_health=False)  # type: ignore[no-untyped-call]

    def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            reply = super().read_response(*args, **options)
        except ResponseError:
            self._owed -= 1
            raise
        self._owed -= 1
        return reply

    def disconnect(self, *args: Any, **options: Any) -> None:
        self._owed, self._asked = 0, 1
        super().disconnect(*args, **options)  # type: ignore[no-untyped-call]

    def connect(self) -> None:
        self.user = threading.get_ident()
        if self._owed:  # A pool asks for this before it hands a connection out.
            self.disconnect()
        try:
            super().connect()  # type: ignore[no-untyped-call]
        except (ConnectionError, TimeoutError) as error:
            if not is_transient(error):
                raise
            raise NotConnected(str(error)) from error


def cache_of(alias: str) -> BaseCache:
    try:
        return caches[alias]
    except InvalidCacheBackendError as error:
        known = ", ".join(sorted(caches))
        raise InvalidConfiguration(f"{quoted(alias)} is not in CACHES ({known}): see `cache`.") from error


def client_of(alias: str) -> object:
    try:
        from django_redis import get_redis_connection  # noqa: PLC0415  # A client of one's own does without.

        return get_redis_connection(alias)
    except ImportError as error:
        raise InvalidConfiguration(f"`cache` needs django-redis ({error}): install machine-memory[redis].") from error
    except NotImplementedError as error:
        raise InvalidConfiguration(
            f"CACHES[{quoted(alias)}] must be a django_redis.cache.RedisCache with one primary server, not sharded."
        ) from error


def check_cache(alias: str) -> Iterator[CheckMessage]:
    """Yield what in the settings of a cache does not go with machines."""
    params = caches.settings[alias]
    options = params.get("OPTIONS", {})
    if options.get("IGNORE_EXCEPTIONS", getattr(settings, "DJANGO_REDIS_IGNORE_EXCEPTIONS", False)):
        yield problem("E101", cache=alias)
    location = params.get("LOCATION", "")
    servers = location.split(",") if isinstance(location, str) else list(location)
    if len(servers) > 1:
        yield problem("E102", cache=alias, count=len(servers))


def waits_for_ever(client: Redis) -> bool:
    pool = client.connection_pool
    return pool.connection_class(**pool.connection_kwargs).socket_timeout is None


def one_attempt(client: object) -> "Redis":
    """Return a client like ``client`` that repeats nothing by itself.

    Its connections are its own: the retries of redis-py belong to a connection, whoever uses it.
    """
    pool = getattr(client, "connection_pool", None)
    if not isinstance(client, Redis) or not isinstance(pool, ConnectionPool):
        raise InvalidConfiguration(
            f"client must be a redis.Redis, not {quoted(client)}: Redis Cluster is not supported."
        )
    kept = {name: value for name, value in pool.connection_kwargs.items() if name not in _OTHERWISE}
    connection_class = type("OneAttempt", (_CountsReplies, pool.connection_class), {})
    options: dict[str, Any] = {**kept, "connection_class": connection_class, "max_connections": pool.max_connections}
    if isinstance(pool, SentinelConnectionPool):
        options |= {"is_master": True, "check_connection": pool.check_connection}
        sentinels = pool.service_name, pool.sentinel_manager
        return Redis(connection_pool=SentinelConnectionPool(*sentinels, **options))  # type: ignore[no-untyped-call]
    if isinstance(pool, BlockingConnectionPool):
        options["timeout"] = pool.timeout
    return Redis(connection_pool=type(pool)(**options))


def start_afresh(pool: ConnectionPool) -> None:
    """Close what lies idle, and what an exception has kept this thread from giving back to the pool."""
    for connection in list(getattr(pool, "_in_use_connections", ())):
        if connection.user == threading.get_ident():
            connection.disconnect()
            pool.release(connection)
    pool.disconnect(inuse_connections=False)


def is_transient(failure: RedisError) -> bool:
    """Say whether the same command may succeed a moment later."""
    return isinstance(failure, (ConnectionError, TimeoutError)) and not isinstance(
        failure, (AuthenticationError, AuthorizationError)
    )


def is_reply_lost(failure: RedisError) -> bool:
    """Say whether the command may have been carried out: it was sent, and no answer came."""
    answered = (NotConnected, AuthenticationError, AuthorizationError, BusyLoadingError, MaxConnectionsError)
    return isinstance(failure, (ConnectionError, TimeoutError)) and not isinstance(failure, answered)
