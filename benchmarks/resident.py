"""A process that advances machines on and on, and tells how much memory it needs."""

import multiprocessing
import os
from multiprocessing.connection import Connection
from pathlib import Path

STATM = Path("/proc/self/statm")


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
