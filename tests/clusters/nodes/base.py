"""MySQL's, with the ports of the nodes in its OPTIONS."""

import itertools
import os
from typing import Any

from django.db.backends.mysql import base
from MySQLdb import OperationalError

_turns = itertools.count(os.getpid())


class DatabaseWrapper(base.DatabaseWrapper):
    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        nodes = conn_params.pop("nodes")
        for _ in nodes[1:]:
            try:
                return self._connected(conn_params, nodes)
            except OperationalError:
                pass  # It is the next one's turn.
        return self._connected(conn_params, nodes)

    def _connected(self, conn_params: dict[str, Any], nodes: list[int]) -> Any:
        return super().get_new_connection({**conn_params, "port": nodes[next(_turns) % len(nodes)]})
