"""A process that uses a memory as it is told, line by line; and the handle by which a test tells it."""

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, is_dataclass
from importlib import import_module
from typing import Any

from django.db import connections


def environment(alias: str) -> dict[str, str]:
    """Return the environment of a process that uses the databases of this test."""
    wanted = ("ENGINE", "NAME", "USER", "PASSWORD", "HOST", "PORT", "OPTIONS")
    databases = {
        name: {key: value for key, value in connections[name].settings_dict.items() if key in wanted}
        for name in {alias, f"{alias}-proxied", "default"} & set(connections)
    }
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.actor_settings",
        "MACHINE_MEMORY_TEST_DATABASES": json.dumps(databases, default=str),
    }


class Actor:
    """Another process with the same memory. ``tell`` and ``answer`` are apart, so that several can work at once."""

    def __init__(self, alias: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.actor", alias],
            env=environment(alias),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "Actor":
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.communicate()

    def tell(self, verb: str, *args: Any, **kwargs: Any) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps([verb, args, kwargs]) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """Return what the verb returned, or the name of what it raised."""
        assert self._process.stdout
        return json.loads(self._process.stdout.readline())

    def answers(self) -> bool:
        """Return whether an answer is there to be read."""
        assert self._process.stdout
        return bool(select.select([self._process.stdout], [], [], 0)[0])

    def __call__(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        self.tell(verb, *args, **kwargs)
        return self.answer()

    def stop(self) -> None:
        self._process.send_signal(signal.SIGSTOP)
        self.wait_until_stopped()

    def wait_until_stopped(self) -> None:
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOWAIT)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


class Script:
    """What an actor can do beside the verbs of its memory."""

    def __init__(self, memory: Any) -> None:
        self._memory = memory

    def increment(self, ids: list[str], times: int) -> int:
        """Count in each of ``ids`` by turns, each time under a lease."""
        for turn in range(times):
            with self._memory.lease(ids[turn % len(ids)], wait=60) as lease:
                lease.commit({"n": (lease.data or {"n": 0})["n"] + 1})
        return times

    def storm(self, ids: list[str], name: str, times: int) -> int:
        """Count as above, with renewals; and finish machines of one's own, which may be purged once they are left."""
        for turn in range(times):
            with self._memory.lease(ids[turn % len(ids)], ttl=20, wait=60) as lease:
                count = {"n": (lease.data or {"n": 0})["n"] + 1}
                lease.renew()
                with self._memory.lease(f"{name} {turn}", ttl=20, wait=60) as own:
                    own.write({"status": "done", "turn": turn})
                    own.renew()
                    assert self._memory.read(own.id) == {"status": "done", "turn": turn}, (
                        "it was purged while it was held"
                    )
                    own.commit({"status": "done", "turn": turn, "left": True})
                lease.commit(count)
        return times

    def run(self, function: str, *args: Any) -> Any:
        """Call a function of another module of the tests, in this process."""
        module, name = function.rsplit(".", 1)
        outcome = getattr(import_module(module), name)(*args)
        return asdict(outcome) if is_dataclass(outcome) and not isinstance(outcome, type) else outcome

    def race(self, id: str, threads: int, at: float) -> int:
        """Lock ``id`` in several threads at once, and return how many have it."""
        won: list[bool] = []

        def lock() -> None:
            self._memory.read(id)  # It has a connection from now on.
            while time.monotonic() < at:
                pass
            won.append(self._memory.lock(id))
            connections.close_all()

        racers = [threading.Thread(target=lock) for _ in range(threads)]
        for racer in racers:
            racer.start()
        for racer in racers:
            racer.join()
        assert len(won) == threads
        return won.count(True)


def main(alias: str) -> None:
    import django

    django.setup()

    from machine_memory import MachineMemoryError, memories

    memory = memories[alias]
    script = Script(memory)
    for line in sys.stdin:
        verb, args, kwargs = json.loads(line)
        try:
            answer = getattr(script, verb, None) or getattr(memory, verb)
            answer = answer(*args, **kwargs)
        except MachineMemoryError as error:
            answer = type(error).__name__
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
