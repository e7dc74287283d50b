"""MariaDB servers of the benchmarks' own, where the one that is there is not what is to be measured."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connections

from benchmarks.places import PATIENCE
from tests.clusters import galera
from tests.clusters.galera import Node

DURABLE = ("--innodb-flush-log-at-trx-commit=1", "--innodb-log-file-size=96M")
"""As MariaDB has them, while the nodes of tests are to be quick."""


class Alone(Node):
    """A MariaDB in no cluster."""

    def start_alone(self, *more: str) -> None:
        self.install()
        self.start("", "--wsrep-on=OFF", "--wsrep-provider=none", *more)

    def is_ready(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), PATIENCE).close()
        except OSError:
            return False
        return True


@contextmanager
def in_memory(alias: str, size: str) -> Iterator[None]:
    """Let a database be on a server that has so much memory for it: unlike others, it does not rely on the system's."""
    server = Alone(0, galera.ACCOUNT.folder("in-memory"))
    server.start_alone(f"--innodb-buffer-pool-size={size}", *DURABLE)
    settings = connections.settings[alias]
    kept = dict(settings)
    try:
        settings |= {"HOST": "127.0.0.1", "PORT": server.port, "USER": "root", "PASSWORD": ""}
        connections.close_all()
        yield
    finally:
        connections.close_all()
        settings |= kept
        server.kill()
