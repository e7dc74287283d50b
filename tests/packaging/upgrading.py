"""Begin a project with the version that was released before, and go on in it with another: see the noxfile."""

import json
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

# They are scripts beside each other: as modules of a package they would find the package that is in the checkout.
from beginning import migrate, run, start_project  # type: ignore[import-not-found]

HELD, EXPIRED, DUE, COUNTED = "held", "expired", "due", "counted"
STATE = {"status": "packing", "z": 1, "a": [1.0, -0.0, None]}


def begin(folder: Path) -> None:
    """Leave machines behind as work does: with states, under leases that are live and over, and with a timer."""
    start_project(folder)
    memory = default_memory()
    for id in (HELD, EXPIRED, COUNTED):
        memory.write(id, STATE)
    memory.write(DUE, STATE, wake_at=timedelta(0))
    assert memory.lock(EXPIRED, ttl=0.01)
    with memory.lease(HELD, ttl=3600) as lease:
        kept = {"lease": lease.detach(), "fences": {id: memory.record(id).fence for id in (HELD, EXPIRED, COUNTED)}}
    (folder / "kept.json").write_text(json.dumps(kept))


def work(folder: Path) -> None:
    """Go on as a worker does that was not restarted yet, or no more."""
    memory = default_memory()
    for _ in range(3):
        with memory.lease(COUNTED) as lease:
            lease.commit({**lease.data, "n": lease.data.get("n", 0) + 1})


def go_on(folder: Path) -> None:
    """Find everything as it was left."""
    from machine_memory import LockNotHeld

    run(folder, "manage.py", "makemigrations", "--check", "--dry-run")
    memory, kept = default_memory(), json.loads((folder / "kept.json").read_text())
    assert json.dumps(memory.read(HELD)) == json.dumps(STATE)
    assert memory.read(COUNTED)["n"] == memory.record(COUNTED).version - 1
    assert [info.id for info in memory.held_locks()] == [HELD]
    assert memory.lock(HELD) is False
    try:
        memory.write(HELD, {})
    except LockNotHeld:
        pass
    else:
        raise AssertionError("a live lease was not respected")
    with memory.attach(kept["lease"]) as lease:
        assert lease.fence == kept["fences"][HELD]
        lease.commit({**lease.data, "status": "sent"})
    assert memory.record(HELD).status == "sent"
    with memory.claim() as batch:
        assert [lease.id for lease in batch] == [DUE]
        batch.commit({DUE: STATE})
    for id, fence in kept["fences"].items():
        with memory.lease(id) as lease:
            assert lease.fence > fence
    run(folder, "manage.py", "purge_expired_locks")


def default_memory() -> Any:
    import django

    django.setup()

    from machine_memory import memory

    return memory


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[2])
    os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
    os.chdir(sys.argv[2])
    {"begin": begin, "migrate": migrate, "work": work, "go-on": go_on}[sys.argv[1]](Path(sys.argv[2]))
