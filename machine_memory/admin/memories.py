"""The memories by their aliases, and how an address says which one a page is about."""

from typing import NamedTuple

from django.http import Http404, HttpRequest
from django.utils.translation import gettext as _

from machine_memory.handler import DEFAULT_MEMORY_ALIAS, IN_MEMORY, memories

MEMORY = "memory"
"""The parameter of a list."""


def aliases() -> list[str]:
    """Return the aliases, the default one first."""
    return sorted(memories, key=lambda alias: alias != DEFAULT_MEMORY_ALIAS) or [DEFAULT_MEMORY_ALIAS]


def default_alias() -> str:
    return aliases()[0]


def alias_of(request: HttpRequest) -> str:
    """Return the memory that the address of a list names, or the default one. Raises ``Http404``."""
    known = aliases()
    alias = request.GET.get(MEMORY, known[0])
    if alias not in known:
        raise Http404(_("There is no such memory."))
    return alias


class Name(NamedTuple):
    """A machine as its pages and the admin log name it: its id alone stands for one in the default memory."""

    memory: str
    id: str

    def __str__(self) -> str:
        return self.id if Name.read(self.id) == self else f"{self.id}{IN_MEMORY}{self.memory}"

    @classmethod
    def read(cls, text: str) -> "Name":
        id, _separator, alias = text.rpartition(IN_MEMORY)
        return cls(alias, id) if id and alias in aliases() else cls(default_alias(), text)
