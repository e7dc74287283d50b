"""The documentation can be built, and nothing in it leads nowhere."""

import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
OPTIONS = ["--fail-on-warning", "--keep-going", "--nitpicky", "--quiet"]


def test_it_is_built_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", *OPTIONS, str(DOCS), str(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
