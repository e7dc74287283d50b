"""A cluster of MariaDB of the tests' own: three nodes, each of which takes writes."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.core.management import call_command

from tests.clusters.processes import PATIENCE, Account, configured, end, program, spare_ports, wait_until

ALIAS = "galera"
NODES = 3
PROVIDERS = ("/usr/lib/galera", "/usr/lib/galera-4", "/usr/lib64/galera", "/usr/lib64/galera-4")
NEEDED = {
    "mariadbd": program("mariadbd"),
    "mariadb-install-db": program("mariadb-install-db"),
    "rsync": program("rsync"),
    "libgalera_smm.so": next((file for folder in PROVIDERS if (file := f"{folder}/libgalera_smm.so") and
                              os.path.exists(file)), None),
}  # fmt: skip
ACCOUNT = Account("mysql")
try:
    import MySQLdb
except ImportError:
    NEEDED["mysqlclient"] = None
missing = ", ".join([f"no {name}" for name, found in NEEDED.items() if not found]) or ACCOUNT.missing
"""Why there is none; empty where there is one."""
GROUP = (
    "pc.recovery=FALSE;gcache.size=16M;evs.keepalive_period=PT0.4S;evs.inactive_check_period=PT0.3S;"
    "evs.suspect_timeout=PT10S;evs.inactive_timeout=PT15S"
)
"""A node on a loaded machine is to be waited for, unless a test is about one that is away."""
SUSPICION = {"evs.suspect_timeout": ("PT1.5S", "PT10S"), "evs.inactive_timeout": ("PT3S", "PT15S")}


class Node:
    def __init__(self, number: int, folder: Path) -> None:
        self.folder, self.log = folder / f"node{number}", folder / f"node{number}.log"
        self._temporary = folder / f"node{number}-tmp"
        self.port, self._group, self._ist, self._sst = spare_ports(4)
        self.address = f"127.0.0.1:{self._group}"

    def install(self) -> None:
        """Make what a server begins with."""
        ACCOUNT.run(
            *(str(NEEDED["mariadb-install-db"]), "--no-defaults", f"--datadir={self.folder}"),
            f"--tmpdir={self.folder.parent}",  # In a folder of all, two that are made at once take each other's files.
            *("--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"),
        )

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def start(self, cluster: str, *more: str) -> None:
        provider = f"gmcast.listen_addr=tcp://{self.address};ist.recv_addr=127.0.0.1:{self._ist};{GROUP}"
        # In a folder of all it would remove, as it starts, the temporary tables of the servers that run.
        self._temporary.mkdir(exist_ok=True)
        ACCOUNT.own(self._temporary)
        self._process = ACCOUNT.start(
            *(str(NEEDED["mariadbd"]), "--no-defaults", f"--datadir={self.folder}", f"--port={self.port}"),
            *(f"--socket={self.folder}.sock", f"--pid-file={self.folder}.pid", "--bind-address=127.0.0.1"),
            f"--tmpdir={self._temporary}",
            *("--binlog-format=ROW", "--innodb-autoinc-lock-mode=2", "--innodb-flush-log-at-trx-commit=0"),
            *("--innodb-buffer-pool-size=32M", "--innodb-log-file-size=16M", "--skip-name-resolve", "--wsrep-on=ON"),
            *(f"--wsrep-provider={NEEDED['libgalera_smm.so']}", f"--wsrep-cluster-address=gcomm://{cluster}"),
            *("--wsrep-node-address=127.0.0.1", "--wsrep-sst-method=rsync"),
            *(f"--wsrep-sst-receive-address=127.0.0.1:{self._sst}", f"--wsrep-provider-options={provider}", *more),
            log=self.log,
        )
        wait_until(self.is_ready, f"the start of {self.folder.name} (see {self.log})")

    def is_ready(self) -> bool:
        assert self.is_alive, self.log.read_text(errors="replace")[-3000:]
        try:
            return bool(self.execute("SHOW STATUS LIKE 'wsrep_ready'") == (("wsrep_ready", "ON"),))
        except MySQLdb.OperationalError:
            return False

    @property
    def members(self) -> int:
        """How many nodes there are, as this one knows."""
        ((_, size),) = self.execute("SHOW STATUS LIKE 'wsrep_cluster_size'")
        return int(size)

    def execute(self, query: str) -> Any:
        session = MySQLdb.connect(host="127.0.0.1", port=self.port, user="root", connect_timeout=5)
        try:
            cursor = session.cursor()
            cursor.execute(query)
            return cursor.fetchall()
        finally:
            session.close()

    def part(self, *, isolate: bool) -> None:
        """Cut the node off from the others, or end that."""
        self.execute(f"SET GLOBAL wsrep_provider_options = 'gmcast.isolate={int(isolate)}'")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE)

    def kill(self) -> None:
        end(self._process)


class Galera:
    """The nodes, the first of which founds the cluster. They join one by one, as each needs another's whole time."""

    def __init__(self) -> None:
        folder = ACCOUNT.folder(ALIAS)
        self.nodes = [Node(number, folder) for number in range(NODES)]
        first, *others = self.nodes
        first.install()
        self._addresses = ",".join(node.address for node in self.nodes)
        try:
            # What the others begin with is what the first one knows, so that they need no copy of it, 6 s each.
            first.start("", "--wsrep-new-cluster")
            first.stop()
            for node in others:
                shutil.copytree(first.folder, node.folder)
                ACCOUNT.own(node.folder)
            first.start(self._addresses, "--wsrep-new-cluster")
            for node in others:
                node.start(self._addresses)
        except BaseException:
            self.close()
            raise

    def settings(self, name: str, *, sync_wait: int = 0, nodes: list[Node] | None = None) -> dict[str, Any]:
        """Return Django's settings for a database whose connections go to one node after the other."""
        return {
            "ENGINE": "tests.clusters.nodes",
            "NAME": name,
            "USER": "root",
            "HOST": "127.0.0.1",
            "OPTIONS": {
                "nodes": [node.port for node in nodes or self.nodes],
                "connect_timeout": 5,
                "init_command": f"SET SESSION wsrep_sync_wait = {sync_wait}",
            },
        }

    @contextmanager
    def suspicious(self) -> Iterator[None]:
        """Let the nodes soon take one that does not answer for one that is away; every node is there to begin with."""
        self.heal()
        try:
            self._suspect(0)
            yield
        finally:
            self._suspect(1)

    def _suspect(self, choice: int) -> None:
        names = list(SUSPICION) if choice == 0 else reversed(SUSPICION)  # The first is never to be the longer one.
        for name in names:
            for node in self.nodes:
                if node.is_alive:
                    node.execute(f"SET GLOBAL wsrep_provider_options = '{name}={SUSPICION[name][choice]}'")

    def heal(self) -> None:
        """Have every node back."""
        for node in self.nodes:
            if not node.is_alive:
                node.start(self._addresses)
        wait_until(lambda: all(node.is_ready() for node in self.nodes), "the return of the nodes")

    def close(self) -> None:
        for node in self.nodes:
            if hasattr(node, "_process"):
                node.kill()


@contextmanager
def running() -> Iterator[Galera]:
    """Yield a cluster that has the tables, and that Django knows by its alias; who reads there sees the latest."""
    cluster = Galera()
    try:
        cluster.nodes[0].execute("CREATE DATABASE machines CHARACTER SET utf8mb4")
        with configured(ALIAS, cluster.settings("machines", sync_wait=7)):
            call_command("migrate", database=ALIAS, verbosity=0)
            yield cluster
    finally:
        cluster.close()
