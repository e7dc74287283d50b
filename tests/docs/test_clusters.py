"""What the page on clusters says is shown by tests that are there."""

import re
from importlib import import_module
from operator import attrgetter
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs/operations/clusters.md").read_text()
SHOWN = dict(re.findall(r"^\| (\w\d) \| `(tests/\S+)`", PAGE, re.MULTILINE))
PROMISES = PAGE[PAGE.index("| | one holder") : PAGE.index("*Measured*")].splitlines()[2:-1]
WITHOUT_A_TEST = ("on paper: ", "measured", "refused", "**not across a failover**")


@pytest.mark.parametrize("key", SHOWN)
def test_each_test_that_is_named_is_there(key: str) -> None:
    path, *names = SHOWN[key].split("::")
    module = import_module(path.removesuffix(".py").replace("/", "."))
    assert callable(attrgetter(".".join(names))(module))
    assert all(name.startswith(("test_", "Test")) for name in names)


@pytest.mark.parametrize("row", PROMISES, ids=lambda row: row.split("|")[1].strip())
def test_each_promise_has_a_test_or_says_that_there_is_none(row: str) -> None:
    _, _, *cells, _ = row.split("|")
    assert len(cells) == 5
    for cell in map(str.strip, cells):
        keys = re.findall(r"\[(\w\d)\]", cell)
        assert set(keys) <= SHOWN.keys()
        assert keys or cell.startswith(WITHOUT_A_TEST), cell


def test_each_test_that_is_named_shows_something() -> None:
    assert set(re.findall(r"\[(\w\d)\]", "".join(PROMISES))) == SHOWN.keys()
