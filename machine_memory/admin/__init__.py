"""A window onto machines and leases: what is stored, and one action, on the record."""

from typing import Any
from urllib.parse import urlencode

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import path
from django.utils.translation import gettext as _

from machine_memory.admin.display import machine_url
from machine_memory.admin.lists import (
    HeldFilter,
    LeaseFilter,
    ParentFilter,
    StatusFilter,
    TimerFilter,
    by_lease,
    by_timer,
)
from machine_memory.admin.machines import rows_at, text_of
from machine_memory.admin.memories import MEMORY, Name, default_alias
from machine_memory.admin.release import force_release, shown_memory
from machine_memory.admin.window import Window
from machine_memory.models import HeldLock, MachineRecord

LEASE = ["lease", "owner", "since", "until", "fence"]
MACHINE = [
    "machine_id",
    "status_shown",
    "version",
    "source_shown",
    "initiator_shown",
    "created",
    "written",
    "wakes",
    "attempts",
]
RELATIVES = ["parent_shown", "root_shown", "children", "tree"]


@admin.register(MachineRecord)
class MachineAdmin(Window):
    """Machines, and what each has written last."""

    list_display = ["machine", "lease", "owner", "status_shown", "written"]
    list_filter = [LeaseFilter, TimerFilter, StatusFilter, ParentFilter]
    ordering = ["pk"]
    sortable_by = ["machine"]

    def get_ordering(self, request: HttpRequest) -> Any:
        # Where leases are few, and all at the end, a database that goes along the key reads the whole table for a page.
        if by_lease(request):
            return ["lease_expires_at", "pk"]
        return ["wake_at", "attempts", "pk"] if by_timer(request) else self.ordering

    def get_sortable_by(self, request: HttpRequest) -> Any:
        return [] if by_lease(request) or by_timer(request) else super().get_sortable_by(request)

    def _own_urls(self) -> list[Any]:
        views = {"force_release": self.force_release_view, "data": self.data_view}
        return [
            path(
                f"<path:object_id>/{name.replace('_', '-')}/",
                self.admin_site.admin_view(view),
                name=f"machine_memory_machinerecord_{name}",
            )
            for name, view in views.items()
        ]

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        state = [(_("State"), {"fields": ["state"]})] if self.has_data_permission(request) else []
        return [
            (_("Lease"), {"fields": [*LEASE, "trace"]}),
            *state,
            (_("Machine"), {"fields": MACHINE}),
            (_("Relatives"), {"fields": RELATIVES}),
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return [*LEASE, "trace", "state", *MACHINE, *RELATIVES]

    def get_preserved_filters(self, request: HttpRequest) -> str:
        # Where Django's own button leads back to the list.
        asked = request.resolver_match.kwargs if request.resolver_match else {}
        alias = _name(asked["object_id"]).memory if "object_id" in asked else default_alias()
        if alias == default_alias():
            return super().get_preserved_filters(request)
        return urlencode({"_changelist_filters": urlencode({MEMORY: alias})})

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        context = {
            "may_force_release": self.has_force_unlock_permission(request),
            **shown_memory(self, _name(object_id).memory),
            **(extra_context or {}),
        }
        return super().change_view(request, object_id, form_url, context)

    def force_release_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Force the release of one lease, from the page of its machine."""
        if not self.has_force_unlock_permission(request):
            raise PermissionDenied
        name = _name(object_id)
        response = force_release(self, request, name.memory, rows_at(name.memory, [name.id]))
        return response or HttpResponseRedirect(machine_url(self.admin_site.name, "change", name))

    def data_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Hand out the whole state as a file."""
        if not self.has_data_permission(request):
            raise PermissionDenied
        text = text_of(_name(object_id))
        if text is None:
            raise Http404(_("There is no such state."))
        headers = {"Content-Disposition": 'attachment; filename="state.json"', "X-Content-Type-Options": "nosniff"}
        return HttpResponse(text, content_type="application/json; charset=utf-8", headers=headers)


@admin.register(HeldLock)
class HeldLockAdmin(Window):
    """Machines that somebody has locked, the longest held first; expired leases among them."""

    list_display = ["machine", "lease", "owner", "since"]
    list_filter = [HeldFilter]
    ordering = ["lease_acquired_at", "pk"]
    sortable_by = []

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).filter(lease_expires_at__isnull=False)

    def change_view(self, request: HttpRequest, object_id: str, *args: Any, **kwargs: Any) -> HttpResponse:
        return HttpResponseRedirect(machine_url(self.admin_site.name, "change", _name(object_id)))


def _name(object_id: str) -> Name:
    return Name.read(unquote(object_id))
