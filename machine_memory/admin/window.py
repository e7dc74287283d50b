"""What both lists have in common: they show, and change nothing but leases."""

from typing import Any

from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import BadRequest, PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.urls import path, register_converter
from django.urls.converters import PathConverter
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from machine_memory.admin.columns import Columns
from machine_memory.admin.lists import MOST, CappedPaginator, searched
from machine_memory.admin.release import force_release, shown_memory


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

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("machine_memory.view_machinerecord")

    def has_force_unlock_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request) and request.user.has_perm("machine_memory.force_unlock")

    def get_queryset(self, request: HttpRequest) -> Any:
        machines = self.model._default_manager.using(shown_memory().using)
        return machines.with_lease_state().defer("data").order_by(*self.ordering or ())

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        return searched(queryset, search_term), False

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        # Django looks up every column that an address names, and so tells whoever asks often enough what is in it.
        declared: Any = self.list_filter
        return lookup in {list_filter.parameter_name for list_filter in declared}

    def get_urls(self) -> list[Any]:
        # By way of the converter, since Django itself makes some of the addresses: those in the admin log, for one.
        return [
            path(str(url.pattern).replace("<path:", "<machine_memory_id:"), url.callback, name=url.name)
            for url in super().get_urls()
        ]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if any("\0" in id for id in request.POST.getlist(ACTION_CHECKBOX_NAME)):
            raise BadRequest(_("That is no machine."))
        # Django takes an action that it does not find for none at all, and answers with the list.
        if request.method == "POST" and not self.has_force_unlock_permission(request):
            raise PermissionDenied
        return super().changelist_view(request, extra_context)

    @admin.action(permissions=["force_unlock"], description=gettext_lazy("Force the release of the selected leases"))
    def force_release(self, request: HttpRequest, queryset: Any) -> HttpResponse | None:
        return force_release(self, request, queryset)
