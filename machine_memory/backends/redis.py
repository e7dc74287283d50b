"""Memory in Redis, through django-redis or a client of one's own."""

import re
from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime
from heapq import nsmallest
from itertools import islice
from typing import Any
from urllib.parse import quote, unquote

from django.core.checks import CheckMessage
from redis import ConnectionError, Redis, RedisError
from redis.exceptions import NoScriptError, ResponseError

from machine_memory import lua, redis_client
from machine_memory.backends.base import BaseMachineMemory
from machine_memory.backends.primitives import refusal
from machine_memory.encoding import decode
from machine_memory.exceptions import CorruptRecord, UnknownOutcome
from machine_memory.problems import problem
from machine_memory.records import Change, EncodedData, Grant, LockInfo, PurgeResult, Record
from machine_memory.validation import quoted

NAMESPACE = "machine:"
_PLAIN = re.compile(r"[A-Za-z0-9_.~-]+").fullmatch
SCANNED = 1000
"""Keys that are asked for, and looked at, in one round trip."""
RECORD_FIELDS = [field.name for field in fields(Record) if field.name != "id"]
LOCK_FIELDS = ["lease_owner", "fence", "lease_acquired_at", "lease_expires_at"]


class RedisMachineMemory(BaseMachineMemory):
    """Keep machines in Redis, one hash each: where the alias ``cache`` of ``CACHES`` says, or the ``client``.

    Of the alias the address, the timeouts, prefix and version are used; its serializer, its retries and
    ``IGNORE_EXCEPTIONS`` are not. ``key_prefix`` goes with ``client``.
    """

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

    def _read(self, id: str) -> object:
        (data,) = self._values(id, "data")
        return decode(data)

    def _record(self, id: str) -> Record | None:
        row: dict[str, Any] = dict(zip(RECORD_FIELDS, self._values(id, *RECORD_FIELDS), strict=True))
        if row["version"] is None:
            return None
        row |= {name: _int(row[name]) for name in ("version", "fence")}
        row |= {name: _utc(row[name]) for name in ("created_at", "written_at")}
        return Record(**row | {"id": id, "data": decode(row["data"])})

    def _write(self, change: Change) -> int:
        labels = change.metadata
        root = "" if change.expected_version else self._root(change.id, labels.parent)
        columns = (change.data, labels.status, labels.source, labels.initiator, labels.parent, root)
        release = "1" if change.release else ""
        try:
            return self._change(lua.WRITE, change.id, change.token, change.expected_version, release, *columns)
        except RedisError as failure:
            if redis_client.is_reply_lost(failure):
                raise UnknownOutcome(
                    f"The reply to the write of {quoted(change.id)} was lost: it may have been applied."
                    " Read it back and compare versions before writing again."
                ) from failure
            raise

    def _root(self, id: str, parent: str | None) -> str:
        # Once a parent has a root it keeps it, so that nothing is lost between this and the script.
        if parent is None:
            return id
        (root,) = self._values(parent, "root")
        return root or parent

    def _acquire(self, id: str, *, token: str, owner: str, ttl: float) -> Grant | None:
        try:
            row = self._run(lua.ACQUIRE, id, token, owner, _microseconds(ttl))
        except ConnectionError as failure:
            grant = self._claim(id, token) if redis_client.is_reply_lost(failure) else None
            if grant is None:
                raise
            return grant
        return _grant(_text(row[0]), *row[1:]) if row else None

    def _claim(self, id: str, token: str) -> Grant | None:
        """Find the lease that was granted with a reply that never came."""
        try:
            holder, *row = self._values(id, "lease_token", "data", "version", "fence")
        except RedisError:
            return None  # The store is down, as the caller is about to be told; the ttl ends what it may have granted.
        return _grant(*row) if holder == token else None

    def _renew(self, id: str, *, token: str, ttl: float) -> bool:
        return bool(self._run(lua.RENEW, id, token, _microseconds(ttl)))

    def _release(self, id: str, *, token: str | None) -> bool:
        return bool(self._run(lua.RELEASE, id, token))

    def _force_release(self, id: str, *, fence: int | None) -> bool:
        return bool(self._run(lua.FORCE_RELEASE, id, fence))

    def _remove(self, id: str, *, token: str | None) -> None:
        self._change(lua.REMOVE, id, token, None)

    def _held_locks(self, after: str) -> list[LockInfo]:
        live = (
            LockInfo(
                id=id, owner=owner or "", fence=_int(fence), locked_at=_utc(acquired_at), expires_at=_utc(expires_at)
            )
            for id, now, (owner, fence, acquired_at, expires_at) in self._scan(*LOCK_FIELDS)
            if id > after and _int(expires_at) > now
        )
        return nsmallest(self.batch, live, key=lambda info: info.id)

    def _purge(self, *, older_than: float, batch_size: int, dry_run: bool) -> Iterator[PurgeResult]:
        age = _microseconds(older_than)
        expired = (
            (id, version)
            for id, now, (expires_at, version) in self._scan("lease_expires_at", "version")
            if 0 < _int(expires_at) <= now - age
        )
        while found := list(islice(expired, batch_size)):
            if dry_run:
                counts = [(1, 0) if version else (0, 1) for _, version in found]
            else:
                with self._client.pipeline(transaction=False) as pipeline:
                    for id, _ in found:
                        pipeline.eval(lua.PURGE.text, 1, self._key(id), age)
                    counts = pipeline.execute()
            cleared, deleted = map(sum, zip(*counts, strict=True))
            yield PurgeResult(cleared=cleared, deleted=deleted)

    def _children(self, id: str) -> list[str]:
        return sorted({child for child, _, (parent,) in self._scan("parent") if parent == id})

    def _tree(self, root: str) -> list[str]:
        return sorted({id for id, _, (known,) in self._scan("root") if known == root})

    def _scan(self, *names: str) -> Iterator[tuple[str, int, list[str | None]]]:
        """Yield every machine with the server's time and some of its fields; some may come twice."""
        keys = self._client.scan_iter(_glob_escaped(self._namespace) + "*", count=SCANNED, _type="hash")
        while found := list(islice(keys, SCANNED)):
            with self._client.pipeline(transaction=False) as pipeline:
                pipeline.time()
                for key in found:
                    pipeline.hmget(key, names)
                (seconds, microseconds), *rows = pipeline.execute()
            for key, row in zip(found, rows, strict=True):
                id = unquote(key.decode().removeprefix(self._namespace))
                yield id, seconds * 1_000_000 + microseconds, [_text(value) for value in row]

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

    def _may_read_again(self, failure: BaseException) -> bool:
        return isinstance(failure, RedisError) and redis_client.is_transient(failure)

    def _key(self, id: str) -> str:
        # Of letters, digits and _.-~% alone: no id can reach into another key, a hash tag or a pattern.
        return self._namespace + (id if _PLAIN(id) else quote(id, safe=""))

    def _values(self, id: str, *names: str) -> list[Any]:
        try:
            values: list[Any] = self._client.hmget(self._key(id), names)
        except ResponseError as error:
            _refuse_another_kind(error, id)
            raise
        return [_text(value) for value in values]

    def _change(
        self, script: lua.Script, id: str, token: str | None, expected_version: int | None, *args: str | None
    ) -> int:
        """Run a script that returns whether it changed the machine, and which token and version stand now."""
        done, holder, version = self._run(script, id, token, expected_version, *args)
        reason = refusal(
            id,
            token=token,
            live_token=_text(holder) or None,
            version=version,
            expected_version=expected_version,
        )
        if not done and reason:
            raise reason
        return int(version)

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


def _refuse_another_kind(error: ResponseError, id: str) -> None:
    if "WRONGTYPE" in str(error):
        raise CorruptRecord(f"The key of {quoted(id)} holds no hash: something else wrote it.") from error


def _glob_escaped(text: str) -> str:
    return re.sub(r"([*?\[\]^\\])", r"\\\1", text)


def _text(value: bytes | None) -> str | None:
    # Bytes that are no UTF-8 were not written here: escaped, they are no JSON either.
    return None if value is None else value.decode(errors="backslashreplace")


def _grant(data: str | None, version: str | int, fence: str | int) -> Grant:
    return Grant(None if data is None else EncodedData(data), int(version), int(fence))


def _int(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0


def _microseconds(seconds: float) -> int:
    return round(seconds * 1_000_000)


def _utc(microseconds: str | None) -> datetime:
    return datetime.fromtimestamp(_int(microseconds) / 1_000_000, UTC)
