"""LangGraph's store of checkpoints."""

from collections.abc import Iterable
from importlib import import_module
from typing import Any

from django.db import connections

from benchmarks.order import advance
from benchmarks.peers.base import Peer


class LangGraph(Peer):
    """LangGraph's PostgresSaver. It keeps every state, and knows no lock."""

    name = "LangGraph PostgresSaver, no lock"
    guard = "no"

    def __init__(self, alias: str, state: dict[str, Any], ids: Iterable[str]) -> None:
        base = import_module("langgraph.checkpoint.base")
        saver = import_module("langgraph.checkpoint.postgres").PostgresSaver
        psycopg, rows = import_module("psycopg"), import_module("psycopg.rows")
        self._new_id = import_module("langgraph.checkpoint.base.id").uuid6
        params = connections[alias].get_connection_params()
        names = ("host", "port", "user", "password", "dbname")
        # As its own `from_conn_string` connects.
        self._connection = psycopg.connect(
            **{name: params[name] for name in names if params.get(name)},
            autocommit=True,
            prepare_threshold=0,
            row_factory=rows.dict_row,
        )
        self._saver = saver(self._connection)
        self._saver.setup()
        for id in ids:
            self._put(_thread(id), base.empty_checkpoint(), state, 1)

    def cycle(self, id: str) -> None:
        found = self._saver.get_tuple(_thread(id))
        state = found.checkpoint["channel_values"]["order"]
        advance(state)
        self._put(found.config, found.checkpoint, state, found.checkpoint["channel_versions"]["order"] + 1)

    def close(self) -> None:
        self._connection.close()

    def _put(self, config: dict[str, Any], checkpoint: dict[str, Any], state: dict[str, Any], version: int) -> None:
        versions = {"order": version}
        new = {"id": str(self._new_id()), "channel_values": {"order": state}, "channel_versions": versions}
        self._saver.put(config, checkpoint | new, {"source": "loop", "step": version, "parents": {}}, versions)


def _thread(id: str) -> dict[str, Any]:
    return {"configurable": {"thread_id": id, "checkpoint_ns": ""}}
