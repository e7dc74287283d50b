"""The plugin for pytest, which loads it by itself: each test has memories of its own."""

from collections.abc import Iterator

import pytest

from machine_memory.testing.clock import Clock
from machine_memory.testing.isolation import isolated_memories


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "machine_memories(own=True): let the test have the own backend of each alias of MACHINE_MEMORIES, or of those"
        " in a list, under a prefix that is emptied; without it, every memory is in this process.",
    )


@pytest.fixture(autouse=True)
def _machine_memories(request: pytest.FixtureRequest) -> Iterator[Clock]:
    marker = request.node.get_closest_marker("machine_memories")
    if marker and (marker.args or set(marker.kwargs) != {"own"}):
        raise pytest.UsageError(
            f'machine_memories takes own=True or own=["alias"], not {marker.args or marker.kwargs}.'
        )
    with isolated_memories(**(marker.kwargs if marker else {})) as clock:
        yield clock


@pytest.fixture
def memory_clock(_machine_memories: Clock) -> Clock:
    """The clock of the memories in this process, which stands still until it is advanced."""
    return _machine_memories
