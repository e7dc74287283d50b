"""What is asked of a peer."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

TTL = 120


class Peer(ABC):
    name: ClassVar[str]
    guard: ClassVar[str]
    """Whether it refuses the write of somebody who lost the lock."""

    @abstractmethod
    def __init__(self, alias: str, state: dict[str, Any], ids: Iterable[str]) -> None:
        """Keep ``state`` for each id. Raises ``ImportError`` and ``ConnectionError`` where that cannot be."""

    @abstractmethod
    def cycle(self, id: str) -> None:
        """Take the lock, read the state, change it, write it and release."""

    @abstractmethod
    def close(self) -> None: ...
