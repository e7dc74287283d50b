"""The matrix: each Python with each Django that it can have, the least versions of everything, and what is published.

``nox --list`` shows the sessions. One whose Python is not installed is named as skipped; ``-t ends`` are those of the
oldest and the newest pair that is there.
"""

import os
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv"
nox.options.error_on_missing_interpreters = False
os.environ["UV_PYTHON_DOWNLOADS"] = "never"

PROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PROJECT)
DJANGO = "Framework :: Django :: "
DJANGOS = [name.removeprefix(DJANGO) for name in PROJECT["project"]["classifiers"] if name.startswith(DJANGO)]
EXTRAS = list(PROJECT["project"]["optional-dependencies"])
GROUPS = [option for group in ("docs", "example", "test", "trace") for option in ("--group", group)]
DRIVERS = ".[mysql,postgresql,redis]"
NEEDS = {"6": "3.12"}
"""The first Python that a major version of Django runs on, where that is not our own first."""


def can_have(python: str, django: str) -> bool:
    needed = NEEDS.get(django.partition(".")[0], PYTHONS[0])
    return PYTHONS.index(python) >= PYTHONS.index(needed)


PAIRS = [(python, django) for python in PYTHONS for django in DJANGOS if can_have(python, django)]
THERE = [pair for pair in PAIRS if shutil.which(f"python{pair[0]}")]
"""Those whose Python is installed."""
MATRIX = nox.parametrize(
    "python,django",
    [
        nox.param(*pair, id="-".join(pair), tags=["ends"] if THERE and pair in (THERE[0], THERE[-1]) else [])
        for pair in PAIRS
    ],
)


@nox.session
@MATRIX
def tests(session: nox.Session, django: str) -> None:
    """Run the tests on a pair, on every store that is there."""
    session.install(*GROUPS, "--editable", DRIVERS, f"django~={django}.0")
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session(python=PYTHONS[0])
def lowest(session: nox.Session) -> None:
    """Run the tests with the least version of each dependency that is named."""
    session.install("--resolution", "lowest-direct", *GROUPS, "--editable", DRIVERS)
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session
@MATRIX
def published(session: nox.Session, django: str) -> None:
    """Install the wheel as built, begin with it as the README says, and add each extra."""
    session.install("build")
    folder = session.create_tmp()
    session.run("python", "-m", "build", "--outdir", folder, silent=True)
    (wheel,) = Path(folder).glob("*.whl")
    session.run("uv", "pip", "uninstall", "build", external=True, silent=True)
    session.install(str(wheel), f"django~={django}.0")
    session.run("python", "tests/packaging/beginning.py")
    for extra in EXTRAS:
        session.install(f"machine-memory[{extra}] @ {wheel.absolute().as_uri()}", f"django~={django}.0")
        session.run("uv", "pip", "check", external=True, silent=True)
    session.install("hiredis")
    session.run("uv", "pip", "check", external=True)


@nox.session(python=PYTHONS[0])
def upgrade(session: nox.Session) -> None:
    """Go on with the machines and leases of the version released last, and with its workers beside those of this."""
    described = session.run(
        "git", "describe", "--tags", "--abbrev=0", external=True, silent=True, success_codes=[0, 128]
    )
    tag = str(described).strip()
    if not tag.startswith("v"):
        session.skip("nothing was released yet: there is no tag")
    folder = Path(session.create_tmp()).absolute()
    shutil.rmtree(folder)  # A run before may have left a project there.
    folder.mkdir()
    released, this = f"machine-memory @ git+{Path.cwd().as_uri()}@{tag}", "."
    for version, *steps in (
        (released, "begin", "work"),
        (this, "migrate", "work"),
        (released, "work"),
        (this, "go-on"),
    ):
        session.install("--reinstall-package", "machine-memory", version)
        for step in steps:
            session.run("python", "tests/packaging/upgrading.py", step, str(folder))
