"""What looks on at a cursor."""

from collections import Counter
from typing import Any

seen: Counter[str] = Counter()
"""How often statements were begun, by the engine that saw them."""


class WatchedCursor:
    def __init__(self, cursor: Any, engine: str) -> None:
        self._cursor, self._engine = cursor, engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    def __iter__(self) -> Any:
        return iter(self._cursor)

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        seen[self._engine] += 1
        return self._cursor.execute(*args, **kwargs)
