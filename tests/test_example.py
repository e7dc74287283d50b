"""The example project: its demo kills workers and loses nothing, and says so only when it is true."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def manage(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.example_settings",
            "EXAMPLE_DATABASE": str(folder / "example.sqlite3"),
            "COLUMNS": "100",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def row(output: str, name: str) -> int:
    (number,) = re.findall(rf"{name} +\S +(\d+)", output)
    return int(number)


def test_the_demo_kills_workers_and_loses_no_update(tmp_path: Path) -> None:
    demo = manage(tmp_path, "demo", "--orders", "12", "--workers", "3", "--kill", "3", "--seed", "1")

    assert demo.returncode == 0, demo.stdout + demo.stderr
    found = {
        name: row(demo.stdout, name)
        for name in ("Orders completed", "Workers killed", "Leases taken over", "Lost updates")
    }
    assert found == {"Orders completed": 12, "Workers killed": 3, "Leases taken over": 3, "Lost updates": 0}
    assert row(demo.stdout, "Events handled") == 10 * 5 + 2 * 4
    assert row(demo.stdout, "Duplicates ignored") > 0
    assert "Look next: python manage.py createsuperuser" in demo.stdout
    assert "\x1b" not in demo.stdout


def test_the_audit_finds_an_update_that_was_lost(tmp_path: Path) -> None:
    assert manage(tmp_path, "demo", "--orders", "2", "--workers", "1", "--kill", "0").returncode == 0
    tampering = """
from example_project.fulfilment.demo.audit import audit
from machine_memory import memory
with memory.lease("order-0001") as lease:
    del lease.data["events"][2]
    lease.commit(lease.data)
print(*audit().lost, audit().passed(orders=2, kills=0))
"""
    shell = manage(tmp_path, "shell", "-c", tampering)
    assert re.search(r"order-0001:\w+ was acknowledged by \S+, and is lost. False\n", shell.stdout), shell.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--orders", "0"], "--orders must be at least 1, not 0."),
        (["--workers", "0"], "--workers must be at least 1, not 0."),
        (["--kill", "-1"], "--kill must be between 0 and the number of orders (200), not -1."),
    ],
)
def test_the_demo_refuses_what_makes_no_sense(tmp_path: Path, arguments: list[str], message: str) -> None:
    demo = manage(tmp_path, "demo", *arguments)

    assert demo.returncode == 1
    assert message in demo.stderr
