"""A checkpointer of LangGraph that keeps each thread as the data of one machine, and refuses whoever lost it."""

import threading
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from itertools import islice
from typing import Any

from asgiref.sync import sync_to_async
from django.db import close_old_connections
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint import base

from example_project.orchestrators import langgraph_thread
from example_project.orchestrators.langgraph_thread import Thread
from machine_memory import BaseMachineMemory

PREFIX, LEASE = "thread:", "__lease"


class MachineMemorySaver(base.BaseCheckpointSaver[int]):
    """Keeps threads in a memory. A run belongs into ``with saver.hold(thread_id) as config``.

    A second run is denied there, and what one that lost its lease would save is refused with ``LockLost``. Give the
    memory REQUIRE_LEASE, and a run without that config is refused, too. ``keep``: how many checkpoints of a namespace
    stay, the latest; all of them where channels store deltas. Each is a whole state, and a save writes all that stay.
    """

    def __init__(self, memory: BaseMachineMemory, *, keep: int = 10, **options: Any) -> None:
        super().__init__(**options)
        self.memory, self.keep = memory, keep
        # Nodes that are done at the same time are saved at the same time.
        self._mutexes = [threading.Lock() for _ in range(64)]

    # LangGraph also saves from threads that know nothing of who started the run: the lease travels in the config.

    @contextmanager
    def hold(self, thread_id: str, **options: Any) -> Iterator[RunnableConfig]:
        """Hold a thread for a run with this config: under a lease that is kept alive. Raises ``LockDenied``."""
        with self.memory.lease(f"{PREFIX}{thread_id}", keep_alive=True, **options) as lease:
            yield {"configurable": {"thread_id": thread_id, LEASE: lease}}

    @asynccontextmanager
    async def ahold(self, thread_id: str, **options: Any) -> AsyncIterator[RunnableConfig]:
        """See ``hold``."""
        async with self.memory.alease(f"{PREFIX}{thread_id}", keep_alive=True, **options) as lease:
            yield {"configurable": {"thread_id": thread_id, LEASE: lease}}

    # What LangGraph asks for

    def get_tuple(self, config: RunnableConfig) -> base.CheckpointTuple | None:
        return next(self._found({"checkpoint_ns": "", **config["configurable"]}), None)

    def list(
        self, config: RunnableConfig | None, *, filter: Any = None, before: Any = None, limit: int | None = None
    ) -> Iterator[base.CheckpointTuple]:
        end = base.get_checkpoint_id(before) if before else None
        wanted = (filter or {}).items()
        found = self._found(config["configurable"] if config else {})
        found = (one for one in found if all(one.metadata.get(key) == value for key, value in wanted))
        return islice((one for one in found if not end or one.checkpoint["id"] < end), limit)

    def put(self, config: RunnableConfig, checkpoint: Any, metadata: Any, new_versions: Any) -> RunnableConfig:
        place, id = config["configurable"], checkpoint["id"]
        ns = place.get("checkpoint_ns", "")
        saved = {
            "parent": place.get("checkpoint_id"),
            "began_from": metadata.get("parents", {}).get("", id),
            "is_delta": "counters_since_delta_snapshot" in metadata,
            "checkpoint": self._dump(checkpoint),
            "metadata": self._dump(base.get_checkpoint_metadata(config, metadata)),
        }
        self._change(place, lambda thread: langgraph_thread.save(thread, ns, id, saved, keep=self.keep))
        return _config(place["thread_id"], ns, id)

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        place = config["configurable"]
        ns, id = place.get("checkpoint_ns", ""), place["checkpoint_id"]
        numbered = {
            base.WRITES_IDX_MAP.get(channel, number): [channel, self._dump(value), task_path]
            for number, (channel, value) in enumerate(writes)
        }
        self._change(place, lambda thread: langgraph_thread.save_writes(thread, ns, id, task_id, numbered))

    def delete_thread(self, thread_id: str) -> None:
        self.memory.cleanup(f"{PREFIX}{thread_id}")

    async def aget_tuple(self, config: RunnableConfig) -> base.CheckpointTuple | None:
        return await sync_to_async(self.get_tuple)(config)

    async def alist(self, config: RunnableConfig | None, **options: Any) -> AsyncIterator[base.CheckpointTuple]:
        for one in await sync_to_async(lambda: [*self.list(config, **options)])():
            yield one

    async def aput(self, config: RunnableConfig, *args: Any) -> RunnableConfig:
        return await sync_to_async(self.put)(config, *args)

    async def aput_writes(self, config: RunnableConfig, writes: Any, task_id: str, task_path: str = "") -> None:
        await sync_to_async(self.put_writes)(config, writes, task_id, task_path)

    async def adelete_thread(self, thread_id: str) -> None:
        await self.memory.acleanup(f"{PREFIX}{thread_id}")

    # How it does that

    def _change(self, place: dict[str, Any], change: Callable[[Thread], None]) -> None:
        machine, lease = f"{PREFIX}{place['thread_id']}", place.get(LEASE)
        try:
            with self._mutexes[hash(machine) % len(self._mutexes)]:
                known = lease or self.memory.record(machine)
                data = (known and known.data) or {"checkpoints": {}}
                change(data["checkpoints"])
                if lease:
                    lease.write(data)
                else:
                    self.memory.write(machine, data, expected_version=known.version if known else 0)
        finally:
            close_old_connections()  # They end without a word to Django.

    def _found(self, place: dict[str, Any]) -> Iterator[base.CheckpointTuple]:
        wanted = place.get("checkpoint_ns"), place.get("checkpoint_id")
        known = (one.id.removeprefix(PREFIX) for one in self.memory.find(prefix=PREFIX))
        for thread_id in [place["thread_id"]] if place else known:
            data = self.memory.read(f"{PREFIX}{thread_id}") or {"checkpoints": {}}
            for ns, id, saved in langgraph_thread.checkpoints(data["checkpoints"], *wanted):
                yield base.CheckpointTuple(
                    config=_config(thread_id, ns, id),
                    checkpoint=self._load(saved["checkpoint"]),
                    metadata=self._load(saved["metadata"]),
                    parent_config=_config(thread_id, ns, saved["parent"]) if saved["parent"] else None,
                    pending_writes=[
                        (task, channel, self._load(value)) for task, channel, value in langgraph_thread.writes(saved)
                    ],
                )

    def _dump(self, value: Any) -> Any:
        kind, content = self.serde.dumps_typed(value)
        return [kind, b64encode(content).decode()]

    def _load(self, stored: Any) -> Any:
        kind, content = stored
        return self.serde.loads_typed((kind, b64decode(content)))


def _config(thread_id: str, ns: str, id: str) -> RunnableConfig:
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": ns, "checkpoint_id": id}}
