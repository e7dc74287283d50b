"""The tutorial leads where it says: its files and commands as they are, in an empty folder, with what is published."""

import doctest
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.docs.page import documented, is_run

ROOT = Path(__file__).parents[2]
FILE = re.compile(r"# ([\w/]+\.py)(, at the end)?\n")
BASH = shutil.which("bash") or "bash"
PATIENCE = 60
END = "=== the command ended with status"


def test_the_tutorial_leads_where_it_says(tmp_path: Path) -> None:
    published, folder = tmp_path / "published", tmp_path / "empty"
    build_wheel(tmp_path / "source", published)
    folder.mkdir()
    with Shell(folder, published) as shell:
        for example in documented(ROOT / "docs/tutorial.md").examples():
            if file := FILE.match(example.parsed):
                with (folder / file[1]).open("a" if file[2] else "w") as opened:
                    opened.write(example.parsed)
            elif is_run(example):
                for command, output in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", example.parsed, re.MULTILINE):
                    shell.run(command, output)


def build_wheel(source: Path, published: Path) -> None:
    """Build it from a copy: what a build leaves behind is none of the tests that run meanwhile."""
    shutil.copytree(ROOT / "machine_memory", source / "machine_memory", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(published), str(source)]
    subprocess.run(command, check=True, timeout=PATIENCE)


class Shell:
    """One for all commands, so that what is activated stays so."""

    def __init__(self, folder: Path, published: Path) -> None:
        # What the wheel needs is not downloaded: it is found where the tests themselves have it from.
        pip = {"PIP_FIND_LINKS": str(published), "PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_IGNORE_INSTALLED": "1"}
        kept = {name: value for name, value in os.environ.items() if name in ("HOME", "LANG", "TMPDIR")}
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self._folder = folder
        self._bash = subprocess.Popen(
            [BASH],
            cwd=folder,
            env={**kept, **pip, "PATH": path},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def __enter__(self) -> "Shell":
        return self

    def __exit__(self, *error: object) -> None:
        os.killpg(self._bash.pid, signal.SIGKILL)
        self._bash.communicate()

    def run(self, command: str, wanted: str) -> None:
        status, got = self._output(command)
        assert status == 0, f"{command}\nends with {status}:\n{got}"
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        assert not wanted or doctest.OutputChecker().check_output(wanted, got, flags), f"{command}\nsays\n{got}"
        if command == "python -m venv .venv":
            packages = next(self._folder.glob(".venv/lib/python*/site-packages"))
            (packages / "of_the_tests.pth").write_text(sysconfig.get_path("purelib"))

    def _output(self, command: str) -> tuple[int, str]:
        assert self._bash.stdin and self._bash.stdout
        self._bash.stdin.write(f"{command}\nstatus=$?; echo; echo '{END}' $status\n")
        self._bash.stdin.flush()
        lines: list[str] = []
        while not (lines and lines[-1].startswith(END)):
            lines.append(self._bash.stdout.readline())
            assert lines[-1], f"{command}\nended the shell:\n{''.join(lines)}"
        return int(lines[-1].split()[-1]), "".join(lines[:-1])
