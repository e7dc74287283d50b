"""A window onto machines and leases: what is stored, and one action, on the record."""

import json
from typing import Any

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import path
from django.utils.translation import gettext as _

from machine_memory.admin.display import machine_url
from machine_memory.admin.lists import HeldFilter, LeaseFilter, ParentFilter, StatusFilter, by_lease
from machine_memory.admin.release import force_release
from machine_memory.admin.window import Window
from machine_memory.models import HeldLock, MachineRecord

LEASE = ["lease", "owner", "since", "until", "fence"]
MACHINE = ["machine_id", "status_shown", "version", "source_shown", "initiator_shown", "created", "written"]
RELATIVES = ["parent_shown", "root_shown", "children", "tree"]


@admin.register(MachineRecord)
class MachineAdmin(Window):
    """Machines, and what each has written last."""

    list_display = ["machine", "lease", "owner", "status_shown", "written"]
    list_filter = [LeaseFilter, StatusFilter, ParentFilter]
    ordering = ["pk"]
    sortable_by = ["machine"]

    def get_ordering(self, request: HttpRequest) -> Any:
        # Where leases are few, and all at the end, a database that goes along the key reads the whole table for a page.
        return ["lease_expires_at", "pk"] if by_lease(request) else self.ordering

    def get_sortable_by(self, request: HttpRequest) -> Any:
        return [] if by_lease(request) else self.sortable_by

    def has_data_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request) and request.user.has_perm("machine_memory.view_machine_data")

    def get_urls(self) -> list[Any]:
        views = {"force_release": self.force_release_view, "data": self.data_view}
        return [
            path(
                f"<machine_memory_id:object_id>/{name.replace('_', '-')}/",
                self.admin_site.admin_view(view),
                name=f"machine_memory_machinerecord_{name}",
            )
            for name, view in views.items()
        ] + super().get_urls()

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        machines = self.get_queryset(request).filter(pk=object_id)
        return (machines.defer(None) if self.has_data_permission(request) else machines).first()

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

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        context = {"may_force_release": self.has_force_unlock_permission(request), **(extra_context or {})}
        return super().change_view(request, object_id, form_url, context)

    def force_release_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Force the release of one lease, from the page of its machine."""
        if not self.has_force_unlock_permission(request):
            raise PermissionDenied
        id = unquote(object_id)
        response = force_release(self, request, self.get_queryset(request).filter(pk=id))
        return response or HttpResponseRedirect(machine_url("change", id))

    def data_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Hand out the whole state as a file."""
        if not self.has_data_permission(request):
            raise PermissionDenied
        state = self.get_queryset(request).filter(pk=unquote(object_id)).values_list("data", flat=True).first()
        if state is None:
            raise Http404(_("There is no such state."))
        headers = {"Content-Disposition": 'attachment; filename="state.json"', "X-Content-Type-Options": "nosniff"}
        text = json.dumps(state, ensure_ascii=False, indent=2)
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
        return HttpResponseRedirect(machine_url("change", unquote(object_id)))
