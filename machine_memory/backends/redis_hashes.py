"""The hashes that machines are in Redis: their keys, how they are asked for, and how they are all looked through."""

import re
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any
from urllib.parse import quote, unquote

from django.core.checks import CheckMessage
from redis import Redis, RedisError
from redis.exceptions import NoScriptError, ResponseError

from machine_memory import lua, redis_client
from machine_memory.backends.base import BaseMachineMemory
from machine_memory.exceptions import CorruptRecord
from machine_memory.problems import problem
from machine_memory.validation import quoted

NAMESPACE = "machine:"
_PLAIN = re.compile(r"[A-Za-z0-9_.~-]+").fullmatch
SCANNED = 1000
"""Keys that are asked for, and looked at, in one round trip."""


class RedisHashes(BaseMachineMemory):
    """One hash for each machine."""

    backend = "redis"
    failures = (RedisError,)

    def __init__(
        self, *, cache: str = "default", client: "Redis | None" = None, key_prefix: str = "", **options: Any
    ) -> None:
        super().__init__(**options)
        self.cache = None if client is not None else cache
        if client is None:
            self._namespace = redis_client.cache_of(cache).make_key(NAMESPACE)
        else:
            self._namespace = key_prefix + NAMESPACE
        self._client = redis_client.one_attempt(redis_client.client_of(cache) if client is None else client)

    @property
    def system(self) -> str:
        """OpenTelemetry's name of Redis."""
        return "redis"

    def _key(self, id: str) -> str:
        # Of letters, digits and _.-~% alone: no id can reach into another key, a hash tag or a pattern.
        return self._namespace + (id if _PLAIN(id) else quote(id, safe=""))

    def _values(self, id: str, *names: str) -> list[Any]:
        try:
            values: list[Any] = self._client.hmget(self._key(id), names)
        except ResponseError as error:
            _refuse_another_kind(error, id)
            raise
        return [as_text(value) for value in values]

    def _run(self, script: lua.Script, id: str, *args: str | int | None) -> Any:
        key, given = self._key(id), ["" if value is None else value for value in args]
        try:
            try:
                return self._client.evalsha(script.digest, 1, key, *given)
            except NoScriptError:
                return self._client.eval(script.text, 1, key, *given)
        except ResponseError as error:
            _refuse_another_kind(error, id)
            raise

    def _scan(self, *names: str) -> Iterator[tuple[str, int, list[str | None]]]:
        """Yield every machine with the server's time and some of its fields; some may come twice."""
        keys = self._client.scan_iter(_glob_escaped(self._namespace) + "*", count=SCANNED, _type="hash")
        while found := list(islice(keys, SCANNED)):
            yield from self._rows([unquote(key.decode().removeprefix(self._namespace)) for key in found], names)

    def _rows(self, ids: Collection[str], names: Sequence[str]) -> Iterator[tuple[str, int, list[str | None]]]:
        """Yield machines with the server's time and some of their fields."""
        with self._client.pipeline(transaction=False) as pipeline:
            pipeline.time()
            for id in ids:
                pipeline.hmget(self._key(id), names)
            (seconds, microseconds), *rows = pipeline.execute()
        for id, row in zip(ids, rows, strict=True):
            yield id, seconds * 1_000_000 + microseconds, [as_text(value) for value in row]

    def _run_each(self, script: lua.Script, calls: Collection[tuple[Any, ...]]) -> list[Any]:
        """Run a script for each of these machines, with these arguments, in one pipeline."""
        with self._client.pipeline(transaction=False) as pipeline:
            for number, (id, *args) in enumerate(calls):
                run, text = (pipeline.evalsha, script.digest) if number else (pipeline.eval, script.text)
                run(text, 1, self._key(id), *args)
            replies: list[Any] = pipeline.execute()
            return replies

    def _start_afresh(self) -> None:
        redis_client.start_afresh(self._client.connection_pool)

    def _may_read_again(self, failure: BaseException) -> bool:
        return isinstance(failure, RedisError) and redis_client.is_transient(failure)

    def check(self, *, deploy: bool) -> Iterator[CheckMessage]:
        """Yield what makes this Redis, or the way to it, unsafe for machines."""
        if deploy:
            yield from self._check_server()
            return
        if self.cache is not None:
            yield from redis_client.check_cache(self.cache)
        if redis_client.waits_for_ever(self._client):
            yield problem("W101")

    def _check_server(self) -> Iterator[CheckMessage]:
        try:
            info: Any = self._client.info()
        except RedisError as error:
            yield problem("W104", error=type(error).__name__)
            return
        if info["maxmemory_policy"] != "noeviction":
            yield problem("W102", policy=info["maxmemory_policy"])
        if not info["aof_enabled"]:
            yield problem("W103")


def _refuse_another_kind(error: ResponseError, id: str) -> None:
    if "WRONGTYPE" in str(error):
        raise CorruptRecord(f"The key of {quoted(id)} holds no hash: something else wrote it.") from error


def _glob_escaped(text: str) -> str:
    return re.sub(r"([*?\[\]^\\])", r"\\\1", text)


def as_text(value: bytes | None) -> str | None:
    # Bytes that are no UTF-8 were not written here: escaped, they are no JSON either.
    return None if value is None else value.decode(errors="backslashreplace")


def as_number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0


def microseconds(seconds: float) -> int:
    return round(seconds * 1_000_000)


def as_time(microseconds: str | None) -> datetime:
    return datetime.fromtimestamp(as_number(microseconds) / 1_000_000, UTC)
