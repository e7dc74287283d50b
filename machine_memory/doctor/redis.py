"""What the doctor asks Redis."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from django.core.cache import caches

from machine_memory.backends.redis import RedisMachineMemory
from machine_memory.doctor import findings
from machine_memory.doctor.findings import OK, Probe, Verdict

UNUSED = {
    *("SERIALIZER", "PICKLE_VERSION", "COMPRESSOR", "IGNORE_EXCEPTIONS", "LOG_IGNORED_EXCEPTIONS"),
    *("retry", "retry_on_timeout", "retry_on_error", "decode_responses", "encoding", "encoding_errors"),
}
"""Options of a cache that do not reach its memory."""


def probes(memory: RedisMachineMemory) -> Iterator[tuple[str, Probe]]:
    yield "connection", partial(answers, memory)
    yield "clock", partial(findings.clock, partial(now, memory))
    yield "server", partial(server, memory)
    yield "cache", partial(cache, memory)


def answers(memory: RedisMachineMemory) -> Iterator[Verdict]:
    now(memory)
    yield OK, "Redis answers."


def now(memory: RedisMachineMemory) -> float:
    # Not PING, nor anything else that the least user may not say.
    seconds, microseconds = memory._client.time()
    return seconds + microseconds / 1_000_000


def server(memory: RedisMachineMemory) -> list[Verdict]:
    return findings.messages(memory.check(deploy=True), "Redis keeps an append-only file, and evicts nothing.")


def cache(memory: RedisMachineMemory) -> Iterator[Verdict]:
    one = "Each command makes one attempt, and values are JSON"
    if memory.cache is None:
        yield OK, f"{one}, whatever the client that was handed over does."
        return
    options: dict[str, Any] = caches.settings[memory.cache].get("OPTIONS", {})
    options = {**options, **options.get("CONNECTION_POOL_KWARGS", {}), **options.get("REDIS_CLIENT_KWARGS", {})}
    unused = ", ".join(sorted(UNUSED & set(options)))
    if unused:
        yield OK, f"{one}: of the cache {memory.cache!r}, {unused} is not used."
    else:
        yield OK, f"{one}; the cache {memory.cache!r} asks for nothing else."
