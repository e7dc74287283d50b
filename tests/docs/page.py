"""A page of the documentation, run as its reader would: in a project of its own, from top to bottom.

A block of Python whose first line is ``# settings.py`` is part of the settings, one that begins so with another file is
that file, and any other is run where it stands. A block that begins with ``$`` is run as a command, and what follows it
is its output, with ``...`` for what differs. ``<!-- not run: why -->`` above a block has it compiled alone, and
``<!-- invisible-code-block: python`` holds what the page need not show.
"""

import doctest
import importlib
import os
import re
import shlex
import sys
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from copy import deepcopy
from io import StringIO
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.core.management import execute_from_command_line
from sybil import Document, Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.myst import CodeBlockParser

from tests.redis.server import RedisServer, programs

REDIS = {"redis://127.0.0.1:6379/0": "/0", "redis://127.0.0.1:6380/0": "/1"}
"""The addresses of servers that pages name, and which database of the server of the test they are."""
FILE = re.compile(r"# ([\w/]+\.py)\n")
NOT_RUN = re.compile(r"<!-- not run: .+ -->\n+\Z")
SETTINGS = "settings.py"
PLAIN: dict[str, Any] = {
    "SECRET_KEY": "of a page",
    "DEBUG": True,
    "USE_TZ": True,
    "INSTALLED_APPS": ["django.contrib.auth", "django.contrib.contenttypes", "machine_memory", "shop"],
    "MIDDLEWARE": ["django.middleware.common.CommonMiddleware"],
    "DATABASES": {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": "db.sqlite3",
            "OPTIONS": {"init_command": "PRAGMA journal_mode = WAL", "transaction_mode": "IMMEDIATE", "timeout": 20},
        }
    },
    "ROOT_URLCONF": "shop.urls",
    "ALLOWED_HOSTS": ["testserver"],
    "DEFAULT_AUTO_FIELD": "django.db.models.BigAutoField",
}
"""What a project has before anything of a page is added, with its BASE_DIR: little, as there are many pages."""


def run(path: Path, folder: Path) -> str:
    """Run a page in an empty folder, in a process that has not set up Django. Returns what went wrong, or nothing."""
    try:
        with ExitStack() as stack:
            url = stack.enter_context(RedisServer(programs()[-1])).url if needs_redis(path) else ""
            page = _Page(path, folder, url.removesuffix("/0"))
            for example in page.document.examples():
                example.evaluate()
    except BaseException:  # noqa: BLE001  # A failure of any kind is what is asked for, an exit among them.
        return traceback.format_exc()
    return ""


def documented(path: Path, *, run: Any = None, command: Any = None) -> Document:
    """Parse the blocks of a page that its reader would run."""
    parsers = [CodeBlockParser("python", run), CodeBlockParser("console", command)]
    return Sybil(parsers).parse(path)


def needs_redis(path: Path) -> bool:
    return any(address in path.read_text() for address in REDIS)


def is_run(example: Example) -> bool:
    return NOT_RUN.search(example.document.text[: example.start]) is None


class _Page:
    def __init__(self, path: Path, folder: Path, redis: str) -> None:
        self.document = documented(path, run=self._python, command=self._console)
        self.document.namespace["__name__"] = "page"
        self._status = 0
        self._redis = redis
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        self._begin(folder)

    def _begin(self, folder: Path) -> None:
        given = deepcopy(PLAIN) | {"BASE_DIR": folder}
        files = dict(self._files())
        for source in files.pop(SETTINGS, []):
            exec(source, given)  # noqa: S102
        for name, sources in {"shop/__init__.py": [""], "shop/urls.py": ["urlpatterns = []\n"], **files}.items():
            assert len(sources) == 1, f"{name} is shown twice"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(sources[0])
        settings.configure(**{name: value for name, value in given.items() if name.isupper()})
        django.setup()
        status, output = _manage("migrate", "--verbosity", "0")
        assert status == 0, output

    def _files(self) -> Iterator[tuple[str, list[str]]]:
        found: dict[str, list[str]] = {}
        for example in self.document.examples():
            if is_run(example) and (match := FILE.match(example.parsed)):
                source = str(example.parsed)
                for address, place in REDIS.items():
                    source = source.replace(address, self._redis + place)
                found.setdefault(match[1], []).append(source)
        yield from found.items()

    def _python(self, example: Example) -> None:
        file = FILE.match(example.parsed)
        if not is_run(example):
            compile(example.parsed, example.path, "exec")
        elif file is None:
            PythonEvaluator()(example)
        elif file[1] != SETTINGS:
            importlib.import_module(file[1].removesuffix(".py").removesuffix("/__init__").replace("/", "."))

    def _console(self, example: Example) -> None:
        if is_run(example):
            for line, output in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", example.parsed, re.MULTILINE):
                self._command(line, output)
            assert self._status == 0, f"the exit status at the end of a block is {self._status}; `echo $?` shows it"

    def _command(self, line: str, wanted: str) -> None:
        command = shlex.split(line)
        if command == ["echo", "$?"]:
            got, self._status = f"{self._status}\n", 0
        else:
            assert self._status == 0, f"the exit status before {line!r} is {self._status}"
            assert command[:2] == ["python", "manage.py"], f"{line!r} is not a command that can be run here"
            self._status, got = _manage(*command[2:])
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        if wanted and not doctest.OutputChecker().check_output(wanted, got, flags):
            raise AssertionError(f"{line}\nsays\n{got}\nand not\n{wanted}")


def _manage(*arguments: str) -> tuple[int, str]:
    """Run a command of Django's in this process, and return its exit status and output."""
    output, status = StringIO(), 0
    with redirect_stdout(output), redirect_stderr(output):
        try:
            execute_from_command_line(["manage.py", *arguments])
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
    return status, output.getvalue()
