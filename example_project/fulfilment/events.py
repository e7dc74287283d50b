"""An event, and what becomes of it."""

from dataclasses import dataclass

from django.db.models import TextChoices


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to one order, as the outside world tells it."""

    id: str
    subject: str
    """The id of the machine that it is for."""
    name: str


class Outcome(TextChoices):
    HANDLED = "handled"
    EARLY = "early"
    """Remembered, and applied when its turn comes."""
    DUPLICATE = "duplicate"
    """Ignored: it was handled before."""
    DENIED = "denied"
    """Sent back: somebody else has the machine, and nothing was changed."""


class Step(TextChoices):
    """The points of a cycle at which somebody may look on; after both, the lease is still held."""

    LOCKED = "locked", "after the lock"
    WRITTEN = "written", "after the write"


@dataclass(frozen=True, slots=True)
class Result:
    """What handling an event came to, and the version that the machine had then."""

    outcome: Outcome
    version: int | None = None
