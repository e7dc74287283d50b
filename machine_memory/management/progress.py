"""How commands show how far they are, and name what they have something to say of."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from django.core.management.base import OutputWrapper

EVERY = 5
"""Seconds between two lines of progress."""
BAR = 30
MOST = 20
"""Machines that are named."""


@contextmanager
def progress(
    output: OutputWrapper, alias: str, verbosity: int, count: Callable[[], int]
) -> Iterator[Callable[[int], object]]:
    """Yield what to call with how many machines are done; of how many, is counted for a terminal alone."""
    terminal = output.isatty()
    if not (terminal or verbosity > 1):
        yield lambda done: None
        return
    shown = Progress(output, alias, count() if terminal else 0)
    try:
        yield shown
    finally:
        shown.end()


def listed(names: list[str], separator: str = "\n") -> str:
    more = [f"and {len(names) - MOST:,} more"] if len(names) > MOST else []
    return separator.join([*names[:MOST], *more])


class Progress:
    """A bar on a terminal, and elsewhere a line every few seconds."""

    def __init__(self, output: OutputWrapper, alias: str, expected: int) -> None:
        self._output, self._alias, self._expected = output, alias, expected
        self._next = 0.0

    def __call__(self, done: int) -> None:
        if self._expected:
            filled = min(BAR, BAR * done // self._expected)
            bar = "#" * filled + "." * (BAR - filled)
            self._output.write(f"\r{self._alias} [{bar}] {done:,} of {self._expected:,}", ending="")
        elif time.monotonic() >= self._next:
            self._output.write(f"{self._alias}: {done:,} machines so far")
            self._next = time.monotonic() + EVERY

    def end(self) -> None:
        if self._expected:
            self._output.write("")
