"""The command that works off what is due, as a process of its own."""

import functools
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.core.management import CommandError, call_command
from django.db import OperationalError, connections

from machine_memory import BaseMachineMemory, Lease, LockError, LockNotHeld, SimpleMachineMemory
from machine_memory.management.waking import Waking
from tests.conftest import databases, redis_servers
from tests.contract.stores import Store

HANDLERS = "tests.management.waking"
NOW = timedelta(0)


@contextmanager
def waking(alias: str, handler: str, *options: str, **streams: Any) -> Iterator[Any]:
    """Run the command on the memory of an alias, and at last see that it ends by itself."""
    wanted = ("ENGINE", "NAME", "USER", "PASSWORD", "HOST", "PORT", "OPTIONS")
    databases = {
        name: {key: value for key, value in connections[name].settings_dict.items() if key in wanted}
        for name in connections
    }
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.actor_settings",
        "MACHINE_MEMORY_TEST_DATABASES": json.dumps(databases, default=str),
    }
    command = [sys.executable, "-m", "django", "machine_memory_wake", f"{HANDLERS}.{handler}", "--memory", alias]
    process = subprocess.Popen(
        [*command, *options], env=environment, stdout=subprocess.PIPE, **{"stderr": subprocess.PIPE, **streams}
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ended(process: Any, by: int = signal.SIGTERM) -> str:
    """Stop the command, and return what it has said."""
    process.send_signal(by)
    said, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    return str(said.decode())


stores = pytest.mark.parametrize(
    "store", [*databases("sqlite", "postgresql", forms=("",)), *redis_servers()[:1]], indirect=True
)


@stores
@pytest.mark.parametrize("handler", ["done", "adone"])
def test_what_is_due_is_handled_until_it_is_told_to_stop(store: Store, handler: str) -> None:
    memory, ids = store.memory, [f"m{number}" for number in range(20)]
    for id in ids:
        memory.write(id, {"id": id}, wake_at=NOW)
    memory.write("later", {}, wake_at=timedelta(hours=1))
    with waking(store.alias, handler, "--limit", "3", "--workers", "2", "--ttl", "1m") as process:
        store.wait_until(lambda: all((memory.read(id) or {}).get("done") == 1 for id in ids))
        memory.write("m0", {}, wake_at=timedelta(seconds=0.2))
        store.wait_until(lambda: (memory.read("m0") or {}).get("done") == 1)
        assert ended(process) == f"{store.alias}: 21 machines handled, 0 failed.\n"
    assert memory.read("later") == {}
    assert list(memory.held_locks()) == []


@stores
@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_the_batch_in_hand_is_finished(store: Store, by: int) -> None:
    memory = store.memory
    for id in ("a", "b"):
        memory.write(id, {}, wake_at=NOW)
    with waking(store.alias, "slow") as process:
        store.wait_until(lambda: any((memory.read(id) or {}).get("begun") for id in ("a", "b")))
        assert ended(process, by) == f"{store.alias}: 2 machines handled, 0 failed.\n"
    assert [memory.read(id) for id in ("a", "b")] == [{"begun": True, "done": True}] * 2


@stores
def test_what_fails_is_logged_and_due_again(store: Store) -> None:
    memory = store.memory
    memory.write("a", {}, wake_at=NOW)
    with waking(store.alias, "poison", "--ttl", "1s") as process:
        errors = b""
        while b"attempt 2" not in errors:
            errors += process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=30)
    assert b"the handler failed on a machine (ZeroDivisionError), attempt 1" in errors
    assert said.decode() == f"{store.alias}: 0 machines handled, 2 failed.\n"
    assert memory.read("a") == {}
    assert list(memory.held_locks()) == []


@stores
def test_a_terminal_is_told_how_it_goes(store: Store) -> None:
    store.memory.write("a", {}, wake_at=NOW)
    reader, writer = pty.openpty()
    with (
        os.fdopen(reader, "rb", 0) as terminal,
        os.fdopen(writer, "w") as errors,
        waking(store.alias, "done", stderr=errors) as process,
    ):
        shown = ""
        while "1 machines handled" not in shown:
            shown += terminal.read(1000).decode()
        assert ended(process)
    assert f"\r{store.alias}: 1 machines handled, 0 failed" in shown


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([f"{HANDLERS}.nowhere"], 'HANDLER: Module "tests.management.waking" does not define a "nowhere"'),
        ([f"{HANDLERS}.nothing"], "HANDLER must be the dotted path of a function, not of a NoneType"),
        ([f"{HANDLERS}.done", "--limit", "0"], "limit must be a positive int up to 10000, not 0"),
        ([".done"], r"HANDLER must be a dotted path from the top, not '\.done'"),
        (["..done"], r"HANDLER must be a dotted path from the top, not '\.\.done'"),
        ([f"{HANDLERS}.done", "--workers", "0"], "--workers must be a positive int, not 0"),
        ([f"{HANDLERS}.done", "--memory", "nowhere"], "'nowhere'. is missing"),
    ],
)
def test_nonsense_is_refused_with_a_sentence(arguments: list[str], sentence: str) -> None:
    with pytest.raises(CommandError, match=sentence):
        call_command("machine_memory_wake", *arguments)


def test_workers_that_are_called_by_text_are_refused_with_a_sentence() -> None:
    with pytest.raises(CommandError, match="--workers must be a positive int, not '2'"):
        call_command("machine_memory_wake", f"{HANDLERS}.done", workers="2")


def test_a_store_that_fails_is_asked_again(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = SimpleMachineMemory()
    claim, failures = memory.store.claim, [LockError("down")]
    memory.write("a", {}, wake_at=NOW)

    def failing(*args: Any) -> Any:
        if failures:
            raise failures.pop()
        return claim(*args)

    def handle(lease: Lease) -> None:
        lease.commit({"done": True})
        worker.stop()

    monkeypatch.setattr(memory.store, "claim", failing)
    worker = Waking(memory, handle, limit=5)
    worker.run(1, lambda: None)
    assert memory.read("a") == {"done": True}
    assert "could not claim what is due: LockError" in caplog.text


def test_what_ends_a_worker_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Waking(SimpleMachineMemory(), print, limit=5)

    def broken() -> int:
        raise SystemError("broken")

    monkeypatch.setattr(worker, "_batch", broken)
    with pytest.raises(SystemError, match="broken"):
        worker.run(3, lambda: None)


def worked_off(memory: BaseMachineMemory, handle: Callable[[Lease], Any], calls: int, *, limit: int = 5) -> Waking:
    """Work off what is due until the handler was called so often."""
    left = [None] * calls

    def handling(lease: Lease) -> Any:
        left.pop()
        if not left:
            worker.stop()
        return handle(lease)

    worker = Waking(memory, handling, limit=limit)
    worker.run(1, lambda: None)
    return worker


def with_due(*ids: str) -> SimpleMachineMemory:
    memory = SimpleMachineMemory()
    for id in ids:
        memory.write(id, {}, wake_at=NOW)
    return memory


postgresql = pytest.mark.parametrize("store", databases("postgresql", forms=("",)), indirect=True)


@postgresql
def test_a_connection_that_breaks_fails_one_machine_of_a_batch(store: Store) -> None:
    def handle(lease: Lease) -> None:
        with connections[store.alias].cursor() as cursor:
            cursor.execute(f"SELECT {'pg_terminate_backend(pg_backend_pid())' if lease.id == 'a' else '1'}")

    worker = worked_off(with_due("a", "b", "c"), handle, 3)
    assert (worker.handled, worker.failed) == (2, 1)


@postgresql
def test_a_batch_begins_with_connections_that_work(store: Store) -> None:
    def handle(lease: Lease) -> None:
        with connections[store.alias].cursor() as cursor:
            cursor.execute("SELECT 1")
            if lease.id == "a":
                with pytest.raises(OperationalError):
                    cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    worker = worked_off(with_due("a", "b", "c"), handle, 3, limit=1)
    assert (worker.handled, worker.failed) == (3, 0)


def test_a_lock_that_a_handler_forgets_is_no_other_handlers(caplog: pytest.LogCaptureFixture) -> None:
    memory = with_due("a", "b")

    def handle(lease: Lease) -> None:
        if lease.id == "a":
            assert memory.lock("shared") is True
        else:
            with pytest.raises(LockNotHeld):
                memory.write("shared", {})
        lease.commit({"done": True})

    worker = worked_off(memory, handle, 2)
    assert (worker.handled, worker.failed) == (2, 0)
    assert caplog.text.count("1 locks were still held when the request or task that took them ended") == 1
    assert [info.id for info in memory.held_locks()] == ["shared"]


async def acommitting(lease: Lease) -> None:
    await lease.acommit({"done": True})


def committing(lease: Lease) -> None:
    lease.commit({"done": True})


class Handler:
    async def __call__(self, lease: Lease) -> None:
        await acommitting(lease)


@functools.wraps(acommitting)
def wrapped(lease: Lease) -> Any:
    return acommitting(lease)


@pytest.mark.parametrize(
    "handle",
    [acommitting, functools.partial(acommitting), Handler(), wrapped, sync_to_async(committing)],
    ids=["function", "partial", "object", "wrapped", "synchronous one"],
)
def test_an_asynchronous_handler_is_run_whatever_it_is_wrapped_in(handle: Any) -> None:
    memory = with_due("a")
    worker = worked_off(memory, handle, 1)
    assert (worker.handled, worker.failed) == (1, 0)
    assert memory.read("a") == {"done": True}


def test_a_machine_that_cannot_be_read_is_logged_and_fails(caplog: pytest.LogCaptureFixture) -> None:
    memory = with_due("a", "b")
    store: Any = memory.store
    store._machines["a"].data = "[1]"
    worker = worked_off(memory, committing, 1)
    assert (worker.handled, worker.failed) == (1, 1)
    assert "could not read a machine that was claimed (CorruptRecord)" in caplog.text
    assert memory.read("b") == {"done": True}
    assert list(memory.held_locks()) == []
