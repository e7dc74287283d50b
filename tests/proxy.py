"""A proxy before a server, that loses and delays what it is told to."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from django.db import connections

BUFFER = 65_536
COMMIT = {"postgresql": b"COMMIT\x00", "mariadb": b"\x03COMMIT", "mysql": b"\x03COMMIT"}
"""How a client ends a transaction, on the wire."""
STATEMENT = b"UPDATE"
"""What is in each statement that ends by itself."""


class Proxy:
    """Pass bytes on between clients and a server, on the loopback interface.

    ``before``: end the connection when a client sends this, without passing it on. ``after``: pass it on, wait for the
    server's answer, and end the connection without passing that on. ``delay``: seconds that each answer takes longer.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.before: bytes | None = None
        self.after: bytes | None = None
        self.delay = 0.0
        self.connections = 0
        self.requests = 0
        self._target = target
        self._muted: set[socket.socket] = set()
        self._clients: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._listen, daemon=True)]
        self._threads[0].start()

    def refuse(self) -> None:
        """Take no connection any more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def hang_up(self) -> None:
        """End every connection that there is, as a firewall or a restart of the server does."""
        for client in list(self._clients):
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.refuse()
        for thread in self._threads:
            thread.join(10)

    def _listen(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # The listener was closed.
            self.connections += 1
            self._threads.append(threading.Thread(target=self._serve, args=[client], daemon=True))
            self._threads[-1].start()

    def _serve(self, client: socket.socket) -> None:
        with client, self._connect() as server:
            for end in (client, server):  # Else what it passes on in two parts waits for an acknowledgement, 40 ms.
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            answers = threading.Thread(target=self._pass_answers, args=[server, client], daemon=True)
            answers.start()
            self._clients.add(client)
            with contextlib.suppress(OSError):
                while request := client.recv(BUFFER):
                    self.requests += 1
                    if self.before and self.before in request:
                        break
                    if self.after and self.after in request:
                        self._muted.add(server)
                    server.sendall(request)
                    if server in self._muted:
                        answers.join(10)
                        break
            for end in (client, server):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            answers.join(10)
            self._muted.discard(server)
            self._clients.discard(client)

    def _pass_answers(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while answer := server.recv(BUFFER):
                if server in self._muted:
                    return
                time.sleep(self.delay)
                client.sendall(answer)

    def _connect(self) -> socket.socket:
        host, port = self._target
        if not host.startswith("/"):
            return socket.create_connection((host, port))
        server = socket.socket(socket.AF_UNIX)
        server.connect(str(Path(host) / f".s.PGSQL.{port}"))
        return server


@contextlib.contextmanager
def proxied(alias: str) -> Iterator[tuple[str, Proxy]]:
    """Yield a second alias of the same database, and the proxy that its connections go through."""
    through = connections[f"{alias}-proxied"]
    standard = {"postgresql": 5432, "mysql": 3306}[through.vendor]
    direct = {name: through.settings_dict[name] for name in ("HOST", "PORT")}
    proxy = Proxy((direct["HOST"], int(direct["PORT"] or standard)))
    through.settings_dict |= {"HOST": "127.0.0.1", "PORT": str(proxy.port)}
    try:
        yield through.alias, proxy
    finally:
        through.close()
        through.settings_dict |= direct
        proxy.close()
