"""A client of Redis that makes one attempt, on connections of its own, with the settings of another client."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from django.core.cache import BaseCache, InvalidCacheBackendError, caches
from redis import BlockingConnectionPool, ConnectionError, ConnectionPool, Redis, RedisError, TimeoutError
from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    ClusterDownError,
    MovedError,
    ResponseError,
)
from redis.sentinel import SentinelConnectionPool

from machine_memory.core.validation import quoted
from machine_memory.exceptions import InvalidConfiguration

_OTHERWISE = {
    *("retry", "retry_on_timeout", "retry_on_error"),
    *("decode_responses", "encoding", "encoding_errors"),
    "connection_pool",  # Of Sentinel; the pool here has its own.
    # Of redis-py from 7 on, which has them by default. Told that a server moves, it connects anew between a reply and
    # whoever waits for that; where it cannot, the reply is lost.
    *("maint_notifications_config", "maint_notifications_pool_handler", "oss_cluster_maint_notifications_handler"),
    *("maintenance_state", "maintenance_notification_hash"),
    *("orig_host_address", "orig_socket_timeout", "orig_socket_connect_timeout"),
}
"""What is not taken over: by default nothing is repeated, and replies are bytes."""
_INSTEAD: dict[str, Any] = {}
with suppress(ImportError):
    from redis.maint_notifications import MaintNotificationsConfig

    _INSTEAD["maint_notifications_config"] = MaintNotificationsConfig(enabled=False)


class NotConnected(ConnectionError):
    """No connection was made, so nothing was sent."""


@contextmanager
def _before_sending() -> Iterator[None]:
    """Tell a failure on the way to a connection from one that comes later, which redis-py does not."""
    try:
        yield
    except (ConnectionError, TimeoutError) as error:
        if isinstance(error, NotConnected) or not is_transient(error):
            raise
        raise NotConnected(str(error)) from error


class StillLoading(ResponseError):
    """The server reads what it has on disk, and has not done this."""


class NoPrimary(ResponseError):
    """The server is a replica by now, and has not done this."""


_REFUSALS = {
    "ASK": AskError,
    "MOVED": MovedError,
    "CLUSTERDOWN": ClusterDownError,
    "LOADING": StillLoading,
    "READONLY": NoPrimary,
}


@cache
def _refusing(parser_class: Any) -> Any:
    """Return a parser for which these are replies as others: to redis-py the last two end the connection, whose other
    replies, to what the server has done before or after, would be lost. Until 6 it does not know those of a cluster."""
    known = {**parser_class.EXCEPTION_CLASSES, **_REFUSALS}
    return type(parser_class.__name__, (parser_class,), {"EXCEPTION_CLASSES": known})


if TYPE_CHECKING:
    from redis import Connection as _Connection
    from redis import ConnectionPool as _Pool
else:
    _Connection = _Pool = object


class _CountsReplies(_Connection):
    """A connection that is closed, never reused, where a reply is still to come: it would be the next question's."""

    _asked = 1
    """Commands of the next package."""
    user: int | None = None
    """The thread that it was handed out to last."""
    _owed = 0
    """Replies that were not read, whatever exception has come between."""
    is_outdated = False
    """Whether it is to be closed before it is used again."""

    def pack_commands(self, commands: Any) -> Any:
        commands = list(commands)
        self._asked = len(commands)
        return super().pack_commands(commands)  # type: ignore[no-untyped-call]

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        if not self._sock:
            self.connect()
        if check_health and self.health_check_interval:
            with _before_sending():
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

    def set_parser(self, parser_class: Any) -> None:
        super().set_parser(_refusing(parser_class))  # type: ignore[no-untyped-call]

    def disconnect(self, *args: Any, **options: Any) -> None:
        self._owed, self._asked, self.is_outdated = 0, 1, False
        super().disconnect(*args, **options)  # type: ignore[no-untyped-call]

    def connect(self) -> None:
        self.user = threading.get_ident()
        if self._owed or self.is_outdated:  # A pool asks for this before it hands a connection out.
            self.disconnect()
        if self._sock:
            return
        try:
            with _before_sending():
                super().connect()  # type: ignore[no-untyped-call]
        except BaseException:  # Half greeted it would be used as it is: without a user, or in another database.
            self.disconnect()
            raise


class _SaysWhatWasSent(_Pool):
    """A pool where to get no connection is another failure than to get no reply."""

    def get_connection(self, *args: Any, **options: Any) -> Any:
        with _before_sending():
            return super().get_connection(*args, **options)


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


def one_attempt(client: object, **elsewhere: Any) -> "Redis":
    """Return a client like ``client`` that repeats nothing by itself; ``elsewhere``: what it has of its own.

    Its connections are its own: the retries of redis-py belong to a connection, whoever uses it.
    """
    pool = getattr(client, "connection_pool", None)
    if not isinstance(client, Redis) or not isinstance(pool, ConnectionPool):
        raise InvalidConfiguration(f"client must be a redis.Redis or a redis.RedisCluster, not {quoted(client)}.")
    kept = {name: value for name, value in pool.connection_kwargs.items() if name not in _OTHERWISE} | elsewhere
    options: dict[str, Any] = {**kept, **_INSTEAD, "max_connections": pool.max_connections}
    options["connection_class"] = _with(_CountsReplies, pool.connection_class)
    sentinels: tuple[Any, ...] = ()
    if isinstance(pool, SentinelConnectionPool):
        options |= {"is_master": True, "check_connection": pool.check_connection}
        sentinels = pool.service_name, pool.sentinel_manager
    if isinstance(pool, BlockingConnectionPool):
        options["timeout"] = pool.timeout
    return Redis(connection_pool=_with(_SaysWhatWasSent, type(pool))(*sentinels, **options))


def _with(ours: type, given: type) -> Any:
    return given if issubclass(given, ours) else type("OneAttempt", (ours, given), {})


def address_of(pool: Any) -> str:
    about = {"host": "localhost", "port": 6379, **pool.connection_kwargs}
    return str(getattr(pool, "service_name", None) or about.get("path") or f"{about['host']}:{about['port']}")


def start_afresh(pool: Any) -> None:
    """Use nothing again that lies idle, or that an exception has kept this thread from giving back to the pool."""
    pool._checkpid()  # In a child, a pool that waits has no place for what its parent used.
    for connection in _in_use(pool):
        if connection.user == threading.get_ident():
            connection.disconnect()
            pool.release(connection)
    if isinstance(pool, BlockingConnectionPool):  # Another thread may be taking one just now: nothing is locked.
        for connection in list(pool._connections):
            connection.is_outdated = True
    else:
        pool.disconnect(inuse_connections=False)


def _in_use(pool: Any) -> list[Any]:
    if isinstance(pool, BlockingConnectionPool):  # It knows all that there are, and those that lie idle.
        idle = set(pool.pool.queue)
        return [connection for connection in list(pool._connections) if connection not in idle]
    return list(pool._in_use_connections)


def is_transient(failure: RedisError) -> bool:
    """Say whether the same command may succeed a moment later."""
    passing = (ConnectionError, TimeoutError, ClusterDownError, StillLoading)
    return isinstance(failure, passing) and not isinstance(failure, (AuthenticationError, AuthorizationError))


def is_reply_lost(failure: RedisError) -> bool:
    """Say whether the command may have been carried out: it was sent, and no answer came."""
    answered = (NotConnected, AuthenticationError, AuthorizationError)
    return isinstance(failure, (ConnectionError, TimeoutError)) and not isinstance(failure, answered)
