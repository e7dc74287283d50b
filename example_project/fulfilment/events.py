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
    """The points of a batch's cycle at which somebody may look on."""

    LOCKED = "locked", "after the lock"
    COMMITTED = "committed", "after the commit"
    """Released is what was written; what had nothing to write is held until the batch ends."""


@dataclass(frozen=True, slots=True)
class Result:
    """What handling an event came to, and the version that the machine had then."""

    outcome: Outcome
    version: int | None = None
