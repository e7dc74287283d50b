"""What both lists have in common: they show, and change nothing but leases."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any
from urllib.parse import urlencode

from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.models import LogEntry
from django.contrib.admin.utils import unquote
from django.contrib.admin.views.main import ERROR_FLAG
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db import Error, router
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, register_converter
from django.urls.converters import PathConverter
from django.utils.connection import ConnectionDoesNotExist
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy

from machine_memory.admin.columns import Columns
from machine_memory.admin.display import list_url
from machine_memory.admin.listing import Listing, Looking
from machine_memory.admin.lists import MOST, CappedPaginator, searched
from machine_memory.admin.machines import named, rows_at, rows_of
from machine_memory.admin.memories import MEMORY, Name, alias_of, aliases
from machine_memory.admin.release import AT_ONCE, force_release, lease_of, lease_text
from machine_memory.exceptions import InvalidConfiguration, MachineMemoryError
from machine_memory.handler import memories

SERVICE_UNAVAILABLE = 503


class MachineIdConverter(PathConverter):
    """An id in an address, quoted as the admin does, and so that a browser does not take it for a step in the path."""

    regex = "[^\0]+"
    escapes = {".": "_2E", "..": "_2E_2E"}

    def to_python(self, value: str) -> str:
        return next((id for id, escaped in self.escapes.items() if value == escaped), value)

    def to_url(self, value: str) -> str:
        return self.escapes.get(value, value)


register_converter(MachineIdConverter, "machine_memory_id")


class Window(Columns, admin.ModelAdmin):  # type: ignore[type-arg]  # It cannot be subscripted at run time.
    most = MOST
    actions = ["force_release"]
    list_display_links = None
    paginator = CappedPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_max_show_all = 0
    search_fields = ["pk"]
    search_help_text = gettext_lazy("The beginning of an id; or “root:” and the id of the machine that began a tree.")

    class Media:
        css = {"all": ["machine_memory/admin.css"]}
        js = ["machine_memory/admin.js"]

    def _never(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    has_add_permission = has_change_permission = has_delete_permission = _never

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("machine_memory.view_machinerecord")

    def has_data_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request) and request.user.has_perm("machine_memory.view_machine_data")

    def has_force_unlock_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request) and request.user.has_perm("machine_memory.force_unlock")

    def get_queryset(self, request: HttpRequest) -> Any:
        return rows_of(alias_of(request), self.model).order_by(*self.ordering or ())

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> Any:
        return Looking if _is_elsewhere(alias_of(request)) else Listing

    def get_sortable_by(self, request: HttpRequest) -> Any:
        return [] if _is_elsewhere(alias_of(request)) else self.sortable_by

    def get_paginator(self, request: HttpRequest, queryset: Any, *args: Any, **kwargs: Any) -> Any:
        if queryset.model is not LogEntry:
            return super().get_paginator(request, queryset, *args, **kwargs)
        # The history of a machine: a server may compare by a collation that takes others for the same.
        id = unquote(request.resolver_match.kwargs["object_id"]) if request.resolver_match else ""
        return Paginator([entry for entry in queryset if entry.object_id == id], *args, **kwargs)

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        if not self.has_view_permission(request):
            raise PermissionDenied  # Django looks first.
        name = Name.read(object_id)
        machine = next(rows_at(name.memory, [name.id], with_data=self.has_data_permission(request)), None)
        if machine is not None:
            machine.pk = str(name)  # Django makes addresses of it, and looks for what was logged.
        return machine

    def action_checkbox(self, obj: Any) -> SafeString:
        return super().action_checkbox(_Choice(lease_text(obj), str(obj)))

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        return searched(queryset, search_term), False

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        # Django looks up every column that an address names, and so tells whoever asks often enough what is in it.
        declared: Any = self.list_filter
        return lookup in {list_filter.parameter_name for list_filter in declared}

    def get_urls(self) -> list[Any]:
        # By way of the converter, since Django itself makes some of the addresses: those in the admin log, for one.
        return [
            path(
                str(url.pattern).replace("<path:", "<machine_memory_id:"),
                self._answering(url.callback),
                name=url.name,
            )
            for url in [*self._own_urls(), *super().get_urls()]
        ]

    def _own_urls(self) -> list[Any]:
        return []

    def _answering(self, view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
        """Say in the place of a page that its memory does not answer; those of other memories are what they were."""

        @wraps(view)
        def answer(request: HttpRequest, **kwargs: Any) -> HttpResponse:
            try:
                return view(request, **kwargs)
            except (MachineMemoryError, Error, ConnectionDoesNotExist) as failure:
                if not self.has_view_permission(request):
                    raise PermissionDenied from failure
                alias = _alias_asked(request, kwargs.get("object_id"))
                if isinstance(failure, Error) and not _is_another_database(alias):
                    raise
                return self._without_answer(request, alias, failure)

        return answer

    def _without_answer(self, request: HttpRequest, alias: str, failure: Exception) -> HttpResponse:
        try:
            store = memories[alias].store
            place, host = store.place, store.host
        except InvalidConfiguration:
            place = host = ""
        context = {
            **self.admin_site.each_context(request),
            "title": capfirst(self.opts.verbose_name_plural),
            "opts": self.opts,
            "media": self.media,
            "failed": {
                "alias": alias,
                "place": place,
                "host": host,
                "kind": type(failure.__cause__ or failure).__name__,  # A driver's own words may quote rows.
            },
            "memory_choices": [
                {
                    "alias": known,
                    "url": list_url(self.admin_site.name, known, self.opts.model_name),
                    "is_chosen": known == alias,
                }
                for known in aliases()
            ],
        }
        template = "admin/machine_memory/without_answer.html"
        return TemplateResponse(request, template, context, status=SERVICE_UNAVAILABLE)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if request.method == "POST":
            # Django takes an action that it does not find for none at all, and answers with the list.
            if not self.has_force_unlock_permission(request):
                raise PermissionDenied
            posted = request.POST.copy()
            selected = posted.getlist(ACTION_CHECKBOX_NAME)
            posted.setlist(ACTION_CHECKBOX_NAME, [lease_of(text)[0] for text in selected])
            request.POST = posted  # type: ignore[assignment]
        response = super().changelist_view(request, extra_context)
        anew = f"{request.path}?{ERROR_FLAG}=1"
        if MEMORY in request.GET and getattr(response, "url", None) == anew:
            # Where it cannot show what is asked for, Django begins anew, and knows of one memory alone.
            return HttpResponseRedirect(f"{anew}&{urlencode({MEMORY: alias_of(request)})}")
        return response

    @admin.action(permissions=["force_unlock"], description=gettext_lazy("Force the release of the selected leases"))
    def force_release(self, request: HttpRequest, queryset: Any) -> HttpResponse | None:
        alias = alias_of(request)
        if _is_elsewhere(alias):
            selected = request.POST.getlist(ACTION_CHECKBOX_NAME)
            machines = rows_at(alias, selected[: AT_ONCE + 1])
        else:
            machines = named(alias, queryset.exclude(lease_token=None)[: AT_ONCE + 1])
        return force_release(self, request, alias, machines, "force_release")


@dataclass
class _Choice:
    """What Django makes a checkbox for."""

    pk: str
    label: str

    def __str__(self) -> str:
        return self.label


def _is_elsewhere(alias: str) -> bool:
    """Say whether the memory is kept in no database."""
    return memories[alias].store.database is None


def _is_another_database(alias: str) -> bool:
    """Say whether the memory is kept in a database that the admin itself can do without."""
    return memories[alias].store.database not in (None, router.db_for_write(LogEntry))


def _alias_asked(request: HttpRequest, object_id: str | None) -> str:
    return alias_of(request) if object_id is None else Name.read(unquote(object_id)).memory
