"""Processes that advance or purge machines, and tell how much memory they need."""

import multiprocessing
import os
import time
from multiprocessing.connection import Connection
from pathlib import Path

STATM, STATUS = Path("/proc/self/statm"), Path("/proc/self/status")
KIB = 1024


def resident(store: str, *, warm_up: int, cycles: int, samples: int) -> list[int]:
    """Return the resident bytes after the warm-up, and after each of ``samples`` parts of the cycles."""
    spawning = multiprocessing.get_context("spawn")
    ours, theirs = spawning.Pipe(duplex=False)
    worker = spawning.Process(target=_work, args=(theirs, store, warm_up, cycles // samples, samples), daemon=True)
    worker.start()
    theirs.close()
    sizes: list[int] = ours.recv()
    worker.join()
    return sizes


def _work(pipe: Connection, store: str, warm_up: int, step: int, samples: int) -> None:
    import django  # noqa: PLC0415  # This is where a process begins.

    django.setup()

    from benchmarks import stores  # noqa: PLC0415
    from benchmarks.databases import machine_id  # noqa: PLC0415
    from benchmarks.order import order  # noqa: PLC0415

    memory = stores.memory(store)
    state = order()
    sizes = []
    for start, stop in [
        (0, warm_up),
        *((warm_up + step * index, warm_up + step * (index + 1)) for index in range(samples)),
    ]:
        for number in range(start, stop):
            with memory.lease(machine_id(number)) as lease:
                lease.commit(lease.data or state)
        sizes.append(_size())
    pipe.send(sizes)


def _size() -> int:
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def purged(alias: str) -> tuple[float, int | None]:
    """Purge the expired locks; return the seconds that it took, and the most resident bytes, where they are known."""
    spawning = multiprocessing.get_context("spawn")
    ours, theirs = spawning.Pipe(duplex=False)
    worker = spawning.Process(target=_purge, args=(theirs, alias), daemon=True)
    worker.start()
    theirs.close()
    seconds, size = ours.recv()
    worker.join()
    return seconds, size


def _purge(pipe: Connection, alias: str) -> None:
    import django  # noqa: PLC0415  # As above.

    django.setup()

    from machine_memory import DatabaseMachineMemory  # noqa: PLC0415

    started = time.perf_counter()
    DatabaseMachineMemory(using=alias).purge_expired_locks()
    seconds = time.perf_counter() - started
    pipe.send((seconds, _peak()))


def _peak() -> int | None:
    if not STATUS.exists():
        return None
    # Not getrusage: it counts what this process was before it became one of its own, a copy of the one that started it.
    (line,) = [line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * KIB
