"""Begin a project with what is installed, as the README says: settings, ``migrate``, and its first lines."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def run(folder: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], cwd=folder, check=True)


def start_project(folder: Path) -> None:
    run(folder, "-m", "django", "startproject", "shop", ".")
    settings = folder / "shop" / "settings.py"
    settings.write_text(f'{settings.read_text()}\nINSTALLED_APPS += ["machine_memory"]\n')
    migrate(folder)


def migrate(folder: Path) -> None:
    run(folder, "manage.py", "migrate", "--verbosity", "0")


def begin(folder: Path) -> None:
    start_project(folder)
    shown = re.search(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    assert shown, "the README shows no Python"
    run(folder, "manage.py", "shell", "--command", f"exec({shown[1]!r}, {{}})")
    run(folder, "manage.py", "purge_expired_locks")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        begin(Path(folder))
