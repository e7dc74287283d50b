"""What lists and pages show of a machine, column by column."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from django.contrib import admin
from django.db import Error, connections
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from machine_memory.admin import display
from machine_memory.admin.lists import TREE
from machine_memory.admin.memories import Name
from machine_memory.backends.database.clock import as_utc
from machine_memory.core.telemetry import trace_id
from machine_memory.core.validation import quoted
from machine_memory.exceptions import StoreError
from machine_memory.handler import memories
from machine_memory.models import MachineRecord

RELATIVES = 20
"""Children, and machines of the tree, on the page of a machine; the list has the others."""


def _column(description: Any, show: Callable[[Any], SafeString], **options: Any) -> Any:
    def shown(window: Any, machine: Any) -> SafeString:
        machine.site = window.admin_site.name  # Of several, the one whose pages links lead to.
        return show(machine)

    return admin.display(shown, description=description, **options)


def _lease(machine: Any) -> SafeString:
    left = display.time_left(*_times(machine, machine.lease_expires_at))
    return format_html("{} {}", display.badge(machine.lease_state), left)


def _state(machine: Any) -> SafeString:
    if not machine.version:
        return display.NOTHING
    url, text = display.machine_url(machine.site, "data", machine.name), _("Download the whole as JSON")
    return format_html('{}<p><a href="{}">{}</a></p>', display.folded(machine.data), url, text)


def _relative(machine: Any, id: str | None) -> SafeString:
    return display.link(machine.site, Name(machine.name.memory, id)) if id else display.NOTHING


def _children(machine: Any) -> SafeString:
    return _relatives(machine, "children", machine.name.id, parent=machine.name.id)


def _tree(machine: Any) -> SafeString:
    root = machine.root or machine.name.id
    return _relatives(machine, "tree", root, q=TREE + root)


class Columns:
    machine = _column(gettext_lazy("machine"), lambda machine: display.link(machine.site, machine.name), ordering="pk")
    machine_id = _column(gettext_lazy("id"), lambda machine: display.exactly(machine.name.id))
    status_shown = _column(gettext_lazy("status"), lambda machine: display.shortly(machine.status))
    source_shown = _column(gettext_lazy("source"), lambda machine: display.shortly(machine.source))
    initiator_shown = _column(gettext_lazy("initiator"), lambda machine: display.exactly(machine.initiator))
    written = _column(gettext_lazy("last written"), lambda machine: _ago(machine, machine.written_at))
    created = _column(gettext_lazy("created"), lambda machine: _ago(machine, machine.created_at))
    wakes = _column(gettext_lazy("wakes"), lambda machine: display.at(_times(machine, machine.wake_at)[0]))

    lease = _column(gettext_lazy("lease"), _lease)
    owner = _column(gettext_lazy("owner"), lambda machine: display.exactly(machine.lease_owner))
    trace = _column(gettext_lazy("trace"), lambda machine: display.exactly(trace_id(machine.lease_trace)))
    since = _column(gettext_lazy("held since"), lambda machine: _ago(machine, machine.lease_acquired_at))
    until = _column(
        gettext_lazy("held until"), lambda machine: display.at(_times(machine, machine.lease_expires_at)[0])
    )

    state = _column(gettext_lazy("state"), _state)
    parent_shown = _column(gettext_lazy("parent"), lambda machine: _relative(machine, machine.parent))
    root_shown = _column(gettext_lazy("root"), lambda machine: _relative(machine, machine.root))
    children = _column(gettext_lazy("children"), _children)
    tree = _column(gettext_lazy("tree"), _tree)


def _ago(machine: Any, moment: datetime | None) -> SafeString:
    return display.ago(*_times(machine, moment))


def _times(machine: Any, moment: datetime | None) -> tuple[datetime | None, datetime]:
    """Return a time of the machine's and the store's own in UTC."""
    if machine._state.db is None:
        return moment, machine.now
    connection = connections[machine._state.db]
    return moment and as_utc(moment, connection), as_utc(machine.now, connection)


def _relatives(machine: Any, kind: str, id: str, **list_of_all: str) -> SafeString:
    """Show the first ones, with a way to the list that has them all; where that alone can tell, the way to it."""
    alias = machine.name.memory
    try:
        ids = _ids(alias, kind, id)
    except StoreError as error:
        return display.exactly(str(error))
    except Error as error:  # A driver's own words may quote rows.
        return display.exactly(f"The store failed to read {quoted(id)} ({type(error).__name__}).")
    if ids is not None and not ids:
        return display.NOTHING
    links = [_relative(machine, id) for id in (ids or [])[:RELATIVES]]
    if ids is None or len(ids) > RELATIVES:
        text = _("All of them") if ids else _("Look for them")
        url = display.list_url(machine.site, alias, **list_of_all)
        links.append(format_html('<a href="{}">{}</a>', url, text))
    return format_html('<ul class="mm-links">{}</ul>', format_html_join("", "<li>{}</li>", ((link,) for link in links)))


def _ids(alias: str, kind: str, id: str) -> list[str] | None:
    """Return the first ids; ``None``: the store would have to look through all machines."""
    memory = memories[alias]
    if memory.store.database is None:
        return getattr(memory, kind)(id) if memory.store.finds_relatives else None
    machines = getattr(MachineRecord.objects.using(memory.store.database), f"{kind}_of")(id)
    return list(machines.order_by("pk").values_list("pk", flat=True)[: RELATIVES + 1])
