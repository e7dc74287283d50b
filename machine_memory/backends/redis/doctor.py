"""What the doctor asks Redis."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from django.core.cache import caches
from redis import Redis, RedisError

from machine_memory.backends.redis import checks
from machine_memory.backends.redis.client import address_of
from machine_memory.backends.redis.indexes import Indexes
from machine_memory.backends.redis.servers import Servers
from machine_memory.core.records import Reindexed
from machine_memory.core.store import Probe, Verdict
from machine_memory.core.validation import quoted
from machine_memory.doctor import findings
from machine_memory.doctor.findings import ERROR, OK, WARNING

UNUSED = {
    *("SERIALIZER", "PICKLE_VERSION", "COMPRESSOR", "IGNORE_EXCEPTIONS", "LOG_IGNORED_EXCEPTIONS"),
    *("retry", "retry_on_timeout", "retry_on_error", "decode_responses", "encoding", "encoding_errors"),
}
"""Options of a cache that do not reach its memory."""


def probes(servers: Servers, alias: str | None, indexes: Indexes) -> Iterator[tuple[str, Probe]]:
    yield "connection", partial(answers, servers)
    yield "clock", partial(clocks, servers)
    yield "server", partial(server, servers)
    yield "cache", partial(cache, alias)
    yield "index", partial(index, indexes)


def answers(servers: Servers) -> Iterator[Verdict]:
    for name, client in servers.nodes().items():
        try:
            _now(client)
        except RedisError as error:
            if servers.alone:
                raise _no_answer(client, error) from error
            yield ERROR, f"{name} does not answer ({type(error).__name__})."
        else:
            yield OK, f"{name} answers."


def clocks(servers: Servers) -> Iterator[Verdict]:
    for name, client in servers.nodes().items():
        try:
            for level, text in findings.clock(partial(_now, client)):
                yield level, text if servers.alone else f"{name}: {text}"
        except RedisError:
            if servers.alone:
                raise  # Of a node that does not answer it has been said already.


def server(servers: Servers) -> list[Verdict]:
    subject = "Redis keeps" if servers.alone else "Every node keeps"
    return findings.messages(checks.nodes(servers), f"{subject} an append-only file, and evicts nothing.")


def index(indexes: Indexes) -> Iterator[Verdict]:
    machines, lacking = next(indexes.mend(dry_run=True), Reindexed(machines=0, lacking=0))
    if lacking:
        yield (
            WARNING,
            f"Of {machines:,} machines that were looked at, {lacking:,} hints are missing: those are not listed as"
            " children, or never due. Run machine_memory_reindex, as after an upgrade or a failover.",
        )
    else:
        yield OK, f"No hint is missing, of {machines:,} machines that were looked at."


def _no_answer(client: Redis, failure: RedisError) -> Exception:
    pool: Any = client.connection_pool
    address = address_of(pool)
    place = f"The primary {quoted(address)} of Redis" if hasattr(pool, "service_name") else f"Redis at {address}"
    return findings.no_answer(place, failure, pool.connection_kwargs.get("password"))


def _now(client: Redis) -> float:
    # Not PING, nor anything else that the least user may not say.
    seconds, microseconds = client.time()
    return seconds + microseconds / 1_000_000


def cache(alias: str | None) -> Iterator[Verdict]:
    one = "Each command makes one attempt, and values are JSON"
    if alias is None:
        yield OK, f"{one}, whatever the client that was handed over does."
        return
    options: dict[str, Any] = caches.settings[alias].get("OPTIONS", {})
    options = {**options, **options.get("CONNECTION_POOL_KWARGS", {}), **options.get("REDIS_CLIENT_KWARGS", {})}
    unused = ", ".join(sorted(UNUSED & set(options)))
    if unused:
        yield OK, f"{one}: of the cache {alias!r}, {unused} is not used."
    else:
        yield OK, f"{one}; the cache {alias!r} asks for nothing else."
