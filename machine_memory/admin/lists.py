"""What keeps the lists fast on a large table: nothing counts it, scans it, or asks for its distinct values."""

from collections.abc import Iterator
from typing import Any

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import F, Value
from django.db.models.functions import Coalesce
from django.db.models.lookups import Exact
from django.http import HttpRequest
from django.utils.functional import cached_property
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

MOST = 10_000
"""Machines that a list goes through; a search or a filter leads to the others."""
LEASES = ("held", "expired", "free")
TIMERS = ("due", "sleeping", "exhausted")
TREE = "root:"
"""Begins a search for the machines of a tree."""


class CappedPaginator(Paginator):  # type: ignore[type-arg]  # It cannot be subscripted at run time.
    """Pages of the first machines that match.

    The keys of a page are found before its rows: some index has them in order, and without it PostgreSQL may rather
    read row after row along the primary key until enough of them match.
    """

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        return min(int(rows.order_by().values("pk")[: MOST + 1].count()), MOST)

    def _get_page(self, rows: Any, *args: Any) -> Any:
        keys = list(rows.values_list("pk", flat=True))
        everything: Any = self.object_list
        everything = everything.all()
        everything.query.clear_where()  # With it MariaDB may go through all that match, rather than take these.
        found = everything.in_bulk(keys)
        return super()._get_page([found[key] for key in keys if key in found], *args)  # type: ignore[misc]  # It is there.


class ChosenFilter(admin.SimpleListFilter):
    """A value to be chosen, each of which is a word for some machines."""

    known: tuple[str, ...] = ()

    def asked(self) -> str | None:
        value = self.value()
        return value if value in self.known else None

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        word = self.asked()
        return getattr(queryset, word)() if word else queryset


class LeaseFilter(ChosenFilter):
    title = gettext_lazy("lease")
    parameter_name = "lease"
    known = LEASES

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("held", _("Held")), ("expired", _("Expired")), ("free", _("Free"))]


def by_lease(request: HttpRequest) -> bool:
    return request.GET.get(LeaseFilter.parameter_name) in ("held", "expired")


class TimerFilter(ChosenFilter):
    title = gettext_lazy("timer")
    parameter_name = "timer"
    known = TIMERS

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("due", _("Due")), ("sleeping", _("Sleeping")), ("exhausted", _("Exhausted"))]


def by_timer(request: HttpRequest) -> bool:
    return request.GET.get(TimerFilter.parameter_name) in TIMERS


class HeldFilter(LeaseFilter):
    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return super().lookups(request, model_admin)[:-1]


class TypedFilter(admin.SimpleListFilter):
    """A value to be typed in."""

    template = "admin/machine_memory/typed_filter.html"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("", "")]  # There are none to choose from, but without any Django leaves the filter out.

    def choices(self, changelist: Any) -> Iterator[Any]:
        others = [
            (name, value)
            for name, values in changelist.filter_params.items()
            if name not in (self.parameter_name, "p")
            for value in values
        ]
        yield {"name": self.parameter_name, "value": self.value() or "", "others": others}

    def asked(self) -> str | None:
        # Nothing stored has a NUL, and not every database takes one.
        return (self.value() or "").replace("\0", "") or None


class StatusFilter(TypedFilter):
    title = gettext_lazy("status")
    parameter_name = "status"

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        status = self.asked()
        if status is None:
            return queryset
        # Leases and timers are few, and of one status may be many: SQLite, which cannot tell, is not to look for those.
        column = Coalesce("status", Value("")) if by_lease(request) or by_timer(request) else F("status")
        return queryset.filter(Exact(column, status))


class ParentFilter(TypedFilter):
    title = gettext_lazy("parent")
    parameter_name = "parent"

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        parent = self.asked()
        return queryset.children_of(parent) if parent else queryset


def asked_by(term: str) -> dict[str, str]:
    """Return what a search is for: the ``root`` of a tree, or the ``prefix`` of ids."""
    if term.startswith(TREE):
        return {"root": term.removeprefix(TREE)}
    return {"prefix": term} if term else {}


def searched(queryset: Any, term: str) -> Any:
    for name, value in asked_by(term).items():
        queryset = queryset.tree_of(value) if name == "root" else queryset.starting_with(value)
    return queryset
