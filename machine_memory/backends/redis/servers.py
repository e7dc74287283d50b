"""Where the commands of a store go: to its one server, or wherever another kind of ``Servers`` has their keys."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from redis import ConnectionError, Redis, RedisError

from machine_memory.backends.redis.client import is_reply_lost, start_afresh

Call = tuple[Any, ...]
"""A key, and a command that is about it and no other."""


class Servers(ABC):
    """Each command is sent once, to the server that has its key."""

    example: Redis
    """A client with the settings of all."""
    alone = True
    """Whether there is one server, that knows of no others."""

    @abstractmethod
    def ask(self, key: str, *command: Any) -> Any: ...

    @abstractmethod
    def ask_each(self, calls: Sequence[Call]) -> list[tuple[int, Any]]:
        """Ask in one pipeline for each server, and return its time, in microseconds, with each reply.

        A failure is a reply, too: of one server's, others know nothing.
        """

    @abstractmethod
    def primaries(self) -> list[Redis]:
        """Return a client of each server that keys are looked for on."""

    @abstractmethod
    def nodes(self) -> dict[str, Redis]:
        """Return a client of each server, replicas included, by the name that people know it by."""

    @abstractmethod
    def start_afresh(self) -> None: ...


class OneServer(Servers):
    """A server, or the primary that Sentinel names."""

    def __init__(self, client: Redis) -> None:
        self.example = client

    def ask(self, key: str, *command: Any) -> Any:
        return self.example.execute_command(*command)  # type: ignore[no-untyped-call]

    def ask_each(self, calls: Sequence[Call]) -> list[tuple[int, Any]]:
        return sent_together(self.example, [command for _, *command in calls]) if calls else []

    def primaries(self) -> list[Redis]:
        return [self.example]

    def nodes(self) -> dict[str, Redis]:
        return {"Redis": self.example}

    def start_afresh(self) -> None:
        start_afresh(self.example.connection_pool)


def sent_together(client: Redis, commands: Sequence[Sequence[Any]], *, asking: bool = False) -> list[tuple[int, Any]]:
    """Send commands in one pipeline, and return the server's time with each reply; failures are replies."""
    try:
        with client.pipeline(transaction=False) as pipeline:
            pipeline.time()
            for command in commands:
                if asking:  # It is meant for the next command alone.
                    pipeline.execute_command("ASKING")  # type: ignore[no-untyped-call]
                pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
            time, *replies = pipeline.execute(raise_on_error=False)
    except RedisError as failure:
        return [(0, failure)] * len(commands)
    replies = replies[1::2] if asking else replies
    if isinstance(time, RedisError):  # As of a server that is busy; which may have done the rest a moment later.
        return [(0, reply if isinstance(reply, RedisError) else ConnectionError(str(time))) for reply in replies]
    seconds, microseconds = time
    return [(seconds * 1_000_000 + microseconds, reply) for reply in replies]


def raise_lost(replies: Sequence[Any]) -> None:
    """Raise the failure after which it is not known what has become of a command, if there is one."""
    for reply in replies:
        if isinstance(reply, RedisError) and is_reply_lost(reply):
            raise reply


def raise_any(replies: Sequence[Any]) -> None:
    """Raise a failure, if there is one, and the worst first."""
    raise_lost(replies)
    for reply in replies:
        if isinstance(reply, RedisError):
            raise reply
