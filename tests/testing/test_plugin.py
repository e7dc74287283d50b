"""The plugin, as a project has it that configures nothing but Django."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETTINGS = """
SECRET_KEY = "of a project"
INSTALLED_APPS = ["machine_memory"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
CACHES = {"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": "redis://127.0.0.1:1/0"}}
MACHINE_MEMORIES = {"default": {}, "far": {"BACKEND": "machine_memory.backends.redis.RedisMachineMemory"}}
"""
TESTS = """
import unittest
import pytest
from django.test import TestCase
from machine_memory import DatabaseMachineMemory, LockLost, SimpleMachineMemory, memories, memory

@pytest.mark.parametrize("time", ["first", "second"])
def test_each_has_memories_of_its_own(time):
    assert memory.write("a", {}) == memories["far"].write("a", {}) == 1
    memory.lock("b")

def test_a_clock(memory_clock):
    with memory.lease("a", ttl=30) as lease:
        memory_clock.advance(31)
        with pytest.raises(LockLost):
            lease.commit({})

@pytest.mark.django_db
@pytest.mark.machine_memories(own=["default"])
def test_its_own_backend():
    assert isinstance(memories["default"], DatabaseMachineMemory)
    assert isinstance(memories["far"], SimpleMachineMemory)
    assert memory.write("a", {}) == 1

class OrderTest(TestCase):
    def test_it(self):
        assert isinstance(memories["default"], SimpleMachineMemory)
        assert memory.write("a", {}) == 1
"""


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "DJANGO_SETTINGS_MODULE": "its_settings"}
    environment.pop("PYTEST_ADDOPTS", None)
    (folder / "its_settings.py").write_text(SETTINGS)
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder where the package's entry point is found, as that of an installed one."""
    metadata = tmp_path / "machine_memory_as_installed-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: machine-memory-as-installed\nVersion: 1\n")
    name = "machine_memory.testing.plugin"
    (metadata / "entry_points.txt").write_text(f"[pytest11]\n{name} = {name}\n")
    return tmp_path


def test_every_test_is_isolated_and_can_ask_for_more(installed: Path) -> None:
    (installed / "test_orders.py").write_text(TESTS)
    done = run(installed, "-m", "pytest", "-q", "-W", "error", "--strict-markers", "-p", "no:cacheprovider")
    assert "5 passed" in done.stdout, done.stdout + done.stderr


def test_a_mistake_in_the_marker_is_told(installed: Path) -> None:
    marked = 'import pytest\n@pytest.mark.machine_memories("default")\ndef test_it(): pass\n'
    (installed / "test_orders.py").write_text(marked)
    done = run(installed, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert "machine_memories takes own=True or own=[\"alias\"], not ('default',)" in done.stdout, done.stdout


def test_a_project_without_django_settings_is_left_alone(installed: Path) -> None:
    (installed / "test_sums.py").write_text("def test_sum(): assert 1 + 1 == 2\n")
    done = run(installed, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:django")
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_djangos_own_runner_needs_nothing(tmp_path: Path) -> None:
    """That Redis is not there would be seen: the address is of no server."""
    (tmp_path / "test_orders.py").write_text(
        "from django.test import SimpleTestCase\n"
        "from machine_memory import memories\n"
        "class OrderTest(SimpleTestCase):\n"
        "    def test_it(self):\n"
        "        self.assertEqual(memories['far'].write('a', {}), 1)\n"
    )
    done = run(tmp_path, "-m", "django", "test")
    assert "Ran 1 test" in done.stderr and done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["machine_memory", "machine_memory.testing", "machine_memory.testing.contract"])
def test_pytest_is_not_needed(tmp_path: Path, module: str) -> None:
    done = run(tmp_path, "-c", f"import sys; sys.modules['pytest'] = None; import {module}")
    assert done.returncode == 0, done.stderr
