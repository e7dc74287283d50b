import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BY_THE_WAY = {"__pycache__", "_build"}


def files(folder: str) -> set[str]:
    """Return the files of a folder, but for what running it leaves there."""
    return {
        str(path.relative_to(ROOT))
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and not BY_THE_WAY & set(path.parts) and ".sqlite3" not in path.name
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


def in_wheel(built: tuple[Path, Path]) -> set[str]:
    with zipfile.ZipFile(built[1]) as wheel:
        return set(wheel.namelist())


@pytest.fixture
def metadata(built: tuple[Path, Path]) -> Message:
    with zipfile.ZipFile(built[1]) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(wheel.read(name).decode())


def test_the_wheel_holds_the_package_and_nothing_else(built: tuple[Path, Path]) -> None:
    assert {name for name in in_wheel(built) if ".dist-info/" not in name} == files("machine_memory")


@pytest.mark.parametrize("needed", ["py.typed", "migrations/0001_initial.py", "static/machine_memory/admin.css"])
def test_what_a_project_needs_is_there(built: tuple[Path, Path], needed: str) -> None:
    assert f"machine_memory/{needed}" in in_wheel(built)


def test_the_sdist_can_run_its_tests(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as sdist:
        names = {member.name.partition("/")[2] for member in sdist.getmembers() if member.isfile()}
    needed = {
        "Makefile",
        "manage.py",
        "noxfile.py",
        "pyproject.toml",
        "setup.cfg",
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
    }
    folders = ("machine_memory", "tests", "example_project", "docs", ".ci", "benchmarks")
    needed |= {name for folder in folders for name in files(folder) if not name.startswith("benchmarks/results.")}
    assert needed - names == set()


def test_pytest_finds_the_plugin(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))
        lines = wheel.read(name).decode().split("\n")
    assert lines[:2] == ["[pytest11]", "machine_memory.testing.plugin = machine_memory.testing.plugin"]


def test_what_is_needed_to_develop_is_no_extra(metadata: Message) -> None:
    assert set(metadata.get_all("Provides-Extra") or []) == set(PROJECT["optional-dependencies"])
    assert set(PROJECT["optional-dependencies"]) == {"mysql", "otel", "postgresql", "redis"}
    assert not [line for line in metadata.get_all("Requires-Dist") or [] if "pytest" in line]


def test_its_version_is_that_of_the_project(built: tuple[Path, Path], metadata: Message) -> None:
    assert metadata["Version"] == PROJECT["version"]
    assert {PROJECT["version"] in path.name for path in built} == {True}
