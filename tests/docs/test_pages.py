"""Every page of the documentation does what it shows."""

import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import django
import pytest

from tests.docs.page import needs_redis, run
from tests.redis.server import NoServer, programs

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs/tutorial.md"
PAGES = [ROOT / "README.md", *sorted(set((ROOT / "docs").rglob("*.md")) - {TUTORIAL})]
RUN = re.compile("^```(python|console)", re.MULTILINE)
NEEDS = re.compile(r"^<!-- needs: Django (\d+)\.(\d+) -->$", re.MULTILINE)
PATIENCE = 60


def named(page: Path) -> str:
    return str(page.relative_to(ROOT).with_suffix(""))


def version(text: re.Match[str]) -> tuple[int, int]:
    return int(text[1]), int(text[2])


@pytest.fixture(scope="module")
def reader() -> Iterator[ProcessPoolExecutor]:
    """Processes, one for a page, that know Django and have not set it up."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["tests.docs.page", "machine_memory"])
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool:
        yield pool


@pytest.mark.parametrize("page", [page for page in PAGES if RUN.search(page.read_text())], ids=named)
def test_a_page_does_what_it_shows(page: Path, tmp_path: Path, reader: ProcessPoolExecutor) -> None:
    if (needed := NEEDS.search(page.read_text())) and django.VERSION[:2] < version(needed):
        pytest.skip(f"this is Django {django.__version__}, and the page is for {needed[1]}.{needed[2]} and later")
    if needs_redis(page):
        try:
            programs()
        except NoServer as reason:
            pytest.skip(f"redis: {reason}")
    failure = reader.submit(run, page, tmp_path).result(PATIENCE)
    if failure:
        pytest.fail(failure, pytrace=False)


def test_what_is_to_be_translated_is_there() -> None:
    sources = [path.read_text() for path in (ROOT / "machine_memory").rglob("*.py")]
    for message in re.findall(r'^msgid "(.+)"', (ROOT / "docs/howto/translating.md").read_text(), re.MULTILINE):
        assert any(f'_("{message}")' in source for source in sources), message


@pytest.mark.parametrize("page", [TUTORIAL, *PAGES], ids=named)
def test_no_block_of_a_page_is_overlooked(page: Path) -> None:
    languages = re.findall(r"^ *(?:```|~~~|:::)+ *([^\n`:~]+)$", page.read_text(), re.MULTILINE)
    assert set(languages) <= {"python", "console", "sql", "po", "text", "{toctree}", "{eval-rst}"}
