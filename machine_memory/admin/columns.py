"""What lists and pages show of a machine, one method for each column."""

from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django.contrib import admin
from django.db import connections
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from machine_memory.admin.display import (
    NOTHING,
    ago,
    at,
    badge,
    exactly,
    folded,
    link,
    list_url,
    machine_url,
    shortly,
    time_left,
)
from machine_memory.admin.lists import TREE
from machine_memory.clock import as_utc
from machine_memory.models import MachineQuerySet, MachineRecord
from machine_memory.telemetry import trace_id

RELATIVES = 20
"""Children, and machines of the tree, on the page of a machine; the list has the others."""


class Columns:
    @admin.display(description=gettext_lazy("machine"), ordering="pk")
    def machine(self, machine: MachineRecord) -> SafeString:
        return link(machine.pk)

    @admin.display(description=gettext_lazy("id"))
    def machine_id(self, machine: MachineRecord) -> SafeString:
        return exactly(machine.pk)

    @admin.display(description=gettext_lazy("status"))
    def status_shown(self, machine: MachineRecord) -> SafeString:
        return shortly(machine.status)

    @admin.display(description=gettext_lazy("source"))
    def source_shown(self, machine: MachineRecord) -> SafeString:
        return shortly(machine.source)

    @admin.display(description=gettext_lazy("initiator"))
    def initiator_shown(self, machine: MachineRecord) -> SafeString:
        return exactly(machine.initiator)

    @admin.display(description=gettext_lazy("last written"))
    def written(self, machine: Any) -> SafeString:
        return ago(*_times(machine, machine.written_at))

    @admin.display(description=gettext_lazy("created"))
    def created(self, machine: Any) -> SafeString:
        return ago(*_times(machine, machine.created_at))

    # The lease

    @admin.display(description=gettext_lazy("lease"))
    def lease(self, machine: Any) -> SafeString:
        left = time_left(*_times(machine, machine.lease_expires_at))
        return format_html("{} {}", badge(machine.lease_state), left)

    @admin.display(description=gettext_lazy("owner"))
    def owner(self, machine: MachineRecord) -> SafeString:
        return exactly(machine.lease_owner)

    @admin.display(description=gettext_lazy("trace"))
    def trace(self, machine: MachineRecord) -> SafeString:
        return exactly(trace_id(machine.lease_trace))

    @admin.display(description=gettext_lazy("held since"))
    def since(self, machine: Any) -> SafeString:
        return ago(*_times(machine, machine.lease_acquired_at))

    @admin.display(description=gettext_lazy("held until"))
    def until(self, machine: Any) -> SafeString:
        expires_at, _now = _times(machine, machine.lease_expires_at)
        return at(expires_at)

    # The state, and where it comes from

    @admin.display(description=gettext_lazy("state"))
    def state(self, machine: MachineRecord) -> SafeString:
        if not machine.version:
            return NOTHING
        download = format_html('<a href="{}">{}</a>', machine_url("data", machine.pk), _("Download the whole as JSON"))
        return format_html("{}<p>{}</p>", folded(machine.data), download)

    @admin.display(description=gettext_lazy("parent"))
    def parent_shown(self, machine: MachineRecord) -> SafeString:
        return link(machine.parent) if machine.parent else NOTHING

    @admin.display(description=gettext_lazy("root"))
    def root_shown(self, machine: MachineRecord) -> SafeString:
        return link(machine.root) if machine.root else NOTHING

    @admin.display(description=gettext_lazy("children"))
    def children(self, machine: MachineRecord) -> SafeString:
        return _links(_beside(machine).children_of(machine.pk), parent=machine.pk)

    @admin.display(description=gettext_lazy("tree"))
    def tree(self, machine: MachineRecord) -> SafeString:
        return _links(_beside(machine).tree_of(machine.root or machine.pk), q=TREE + (machine.root or machine.pk))


def _times(machine: Any, moment: datetime | None) -> tuple[datetime | None, datetime]:
    """Return a column's time and the database's own in UTC."""
    connection = connections[machine._state.db]
    return moment and as_utc(moment, connection), as_utc(machine.now, connection)


def _beside(machine: MachineRecord) -> MachineQuerySet:
    return MachineRecord.objects.using(machine._state.db)


def _links(machines: MachineQuerySet, **list_of_all: str) -> SafeString:
    ids = list(machines.order_by("pk").values_list("pk", flat=True)[: RELATIVES + 1])
    if not ids:
        return NOTHING
    items = format_html_join("", "<li>{}</li>", ((link(id),) for id in ids[:RELATIVES]))
    if len(ids) > RELATIVES:
        all_of_them = f"{list_url()}?{urlencode(list_of_all)}"
        items += format_html('<li><a href="{}">{}</a></li>', all_of_them, _("All of them"))
    return format_html('<ul class="mm-links">{}</ul>', items)
