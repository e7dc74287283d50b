"""The hashes that machines are in Redis: their keys, how they are asked for, and how they are all looked through."""

import logging
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any
from urllib.parse import quote, unquote

from redis import Redis, RedisError
from redis.exceptions import NoScriptError, ResponseError

from machine_memory.backends.redis.scripts import Script
from machine_memory.backends.redis.servers import Call, Servers, raise_any
from machine_memory.core.validation import quoted
from machine_memory.exceptions import CorruptRecord

logger = logging.getLogger("machine_memory")

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PLAIN = re.compile(r"[A-Za-z0-9_.~-]+").fullmatch
SCANNED = 1000
"""Keys that are asked for, and looked at, in one round trip."""


class Hashes:
    """One hash for each machine, under the keys of a namespace."""

    def __init__(self, servers: Servers, namespace: str) -> None:
        self._servers, self._namespace = servers, namespace

    def key(self, id: str) -> str:
        return self._namespace + _spelt(id)

    def beside(self, name: str, id: str = "") -> str:
        """Return a key that no machine has, as ``name`` is in parentheses."""
        return f"{self._namespace}({name}){_spelt(id)}"

    def values(self, id: str, *names: str) -> list[Any]:
        key = self.key(id)
        with _of_one(id):
            values: list[Any] = self._servers.ask(key, "HMGET", key, *names)
        return [as_text(value) for value in values]

    def timed(self, id: str, *names: str) -> tuple[int, list[str | None]]:
        """Return the server's time with some fields of a machine."""
        key = self.key(id)
        with _of_one(id):
            ((now, row),) = self._servers.ask_each([(key, "HMGET", key, *names)])
            raise_any([row])
        return now, [as_text(value) for value in row]

    def run(self, script: Script, id: str, *args: str | int | None) -> Any:
        with _of_one(id):
            return self.run_at(self.key(id), script, *args)

    def run_at(self, key: str, script: Script, *args: str | int | None) -> Any:
        try:
            return self._servers.ask(*_call(script, key, args))
        except NoScriptError:
            return self._servers.ask(*_call(script, key, args, by="EVAL"))

    def run_each(self, script: Script, calls: Iterable[tuple[Any, ...]]) -> list[Any]:
        """Run a script for each of these machines, with these arguments, in one pipeline; failures are replies."""
        return self.run_each_at(script, [(self.key(id), *args) for id, *args in calls])

    def run_each_at(self, script: Script, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        replies = self.asked([_call(script, key, args) for key, *args in calls])
        if unknown := [number for number, reply in enumerate(replies) if isinstance(reply, NoScriptError)]:
            told = self.asked([_call(script, key, args, by="EVAL") for key, *args in map(calls.__getitem__, unknown)])
            for number, reply in zip(unknown, told, strict=True):
                replies[number] = reply
        return replies

    def asked(self, calls: Sequence[Call]) -> list[Any]:
        """Ask for each of these keys, in one pipeline; failures are replies."""
        return [reply for _, reply in self._servers.ask_each(calls)]

    def scan(self, *names: str, prefix: str = "") -> Iterator[tuple[str, int, list[str | None]]]:
        """Yield every machine with the server's time and some of its fields; some may come twice."""
        for key in self._keys("hash", self.key(prefix)):
            yield from self.rows([unquote(name) for name in key], names)

    def beside_all(self, name: str) -> Iterator[str]:
        """Yield the ids that there are keys of that name for."""
        for ids in self._keys("zset", self.beside(name)):
            yield from map(unquote, (id.removeprefix(f"({name})") for id in ids))

    def clear(self) -> None:
        """Delete every key of the namespace."""
        for client in self._servers.primaries():
            for key in client.scan_iter(_pattern(self._namespace), count=SCANNED):
                client.delete(key)

    def _keys(self, kind: str, beginning: str) -> Iterator[list[str]]:
        """Yield what is behind the namespace in the keys that begin so, some at a time."""
        for client in self._servers.primaries():
            keys = client.scan_iter(_pattern(beginning), count=SCANNED, _type=kind)
            while found := list(islice(keys, SCANNED)):
                yield [self._behind(key) for key in found]

    def scan_on(self, server: Redis, cursor: int, count: int, *, prefix: str) -> tuple[int, list[str]]:
        """Go through about so many keys of a server, and return where to go on, or 0, and the ids that were found."""
        keys: Any
        cursor, keys = server.scan(cursor, match=_pattern(self.key(prefix)), count=count, _type="hash")
        return cursor, [unquote(self._behind(key)) for key in keys]

    def _behind(self, key: bytes) -> str:
        # One that is no UTF-8 was not written here: what is made of it is the key of nothing.
        return key.decode(errors="replace").removeprefix(self._namespace)

    def rows(self, ids: Collection[str], names: Sequence[str]) -> Iterator[tuple[str, int, list[str | None]]]:
        """Yield machines with the server's time and some of their fields."""
        keys = [self.key(id) for id in ids]
        replies = self._servers.ask_each([(key, "HMGET", key, *names) for key in keys])
        rows = without_others([row for _, row in replies])
        raise_any(rows)
        for id, (now, _), row in zip(ids, replies, rows, strict=True):
            if row is not None:
                yield id, now, [as_text(value) for value in row]


def done(replies: list[Any]) -> list[Any]:
    """Return replies that are all there, or raise what has failed."""
    raise_any(replies)
    return replies


def without_others(replies: list[Any]) -> list[Any]:
    """Return replies with ``None`` for those of keys that hold no hash: of all other machines they say nothing."""
    kept = [None if is_of_another_kind(reply) else reply for reply in replies]
    if others := sum(is_of_another_kind(reply) for reply in replies):
        logger.warning("passed over %d keys of machines that hold no hash: something else wrote them", others)
    return kept


def answered(replies: list[Any]) -> list[Any]:
    """Return replies of which some may be failures; where nothing else is, raise one."""
    if replies and all(isinstance(reply, RedisError) for reply in replies):
        raise_any(replies)
    return replies


def _call(script: Script, key: str, args: Sequence[str | int | None], *, by: str = "EVALSHA") -> Call:
    name = script.digest if by == "EVALSHA" else script.text
    return (key, by, name, 1, key, *("" if value is None else value for value in args))


def _spelt(id: str) -> str:
    # Of letters, digits and _.-~% alone: no id can reach into another key, a hash tag or a pattern.
    return id if _PLAIN(id) else quote(id, safe="")


@contextmanager
def _of_one(id: str) -> Iterator[None]:
    """Say of which machine the key holds no hash."""
    try:
        yield
    except ResponseError as error:
        if is_of_another_kind(error):
            raise CorruptRecord(f"The key of {quoted(id)} holds no hash: something else wrote it.") from error
        raise


def is_of_another_kind(reply: object) -> bool:
    return isinstance(reply, ResponseError) and "WRONGTYPE" in str(reply)


def _pattern(beginning: str) -> str:
    return re.sub(r"([*?\[\]^\\])", r"\\\1", beginning) + "*"


def as_text(value: bytes | None) -> str | None:
    # Bytes that are no UTF-8 were not written here: escaped, they are no JSON either.
    return None if value is None else value.decode(errors="backslashreplace")


def as_number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0


def microseconds(seconds: float) -> int:
    return round(seconds * 1_000_000)


def as_time(microseconds: int) -> datetime:
    return possible_time(microseconds) or EPOCH


def possible_time(microseconds: int) -> datetime | None:
    """Return a moment, if it is one: any number may have been written by something else."""
    try:
        return EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:
        return None
