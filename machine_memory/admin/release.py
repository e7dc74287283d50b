"""Force the release of leases: shown first, confirmed with a reason, and noted in the admin log."""

import re
from collections.abc import Iterable
from contextlib import nullcontext, suppress
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.admin.models import LogEntry
from django.core.exceptions import BadRequest
from django.db import Error, transaction
from django.db.models import BigIntegerField
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from machine_memory.admin.display import list_url
from machine_memory.admin.machines import rows_at
from machine_memory.admin.memories import Name, aliases
from machine_memory.core.validation import machine_id, visible
from machine_memory.exceptions import StoreError
from machine_memory.handler import memories
from machine_memory.models import MachineRecord

AT_ONCE = 200


def shown_memory(window: Any, alias: str) -> dict[str, str]:
    """Return what the template ``memory.html`` says of the memory that a page is about, if there are several."""
    url = list_url(window.admin_site.name, alias, window.opts.model_name)
    return {"memory": alias if len(aliases()) > 1 else "", "memory_url": url}


class ReasonForm(forms.Form):
    reason = forms.CharField(
        label=gettext_lazy("Reason"),
        max_length=500,
        help_text=gettext_lazy("It goes into the admin log, with your name."),
        widget=forms.TextInput(attrs={"class": "vTextField", "autofocus": True}),
    )


def force_release(
    window: Any, request: HttpRequest, alias: str, machines: Iterable[Any], action: str = ""
) -> HttpResponse | None:
    """Ask for a reason, or do it where one is given; ``None``: the user is told what came of it."""
    confirmed = request.POST.getlist("confirmed")
    if len(confirmed) > AT_ONCE:
        raise BadRequest(_("Those are more leases than were shown."))
    form = ReasonForm(request.POST if confirmed else None)
    if form.is_valid():
        _release(window, request, alias, [lease_of(text) for text in confirmed], form.cleaned_data["reason"])
        return None
    held = [machine for machine in machines if machine.lease_expires_at is not None]
    if not held:
        window.message_user(request, _("There is no lease to release."), messages.WARNING)
        return None
    if len(held) > AT_ONCE:
        window.message_user(request, _("Select at most %(count)d leases.") % {"count": AT_ONCE}, messages.WARNING)
        return None
    title = _("Force the release of leases")
    context = {
        **window.admin_site.each_context(request),
        "title": title,
        # What Django's template shows as the last of the breadcrumbs, whose markup is another in each of its versions.
        "original": title,
        "has_view_permission": True,
        "opts": window.opts,
        "media": window.media + form.media,
        "form": form,
        "held": [_row(window, machine) for machine in held],
        "action": action,
        **shown_memory(window, alias),
    }
    return TemplateResponse(request, "admin/machine_memory/force_release.html", context)


def _row(window: Any, machine: Any) -> dict[str, Any]:
    columns = (window.machine, window.lease, window.owner, window.since, window.until)
    return {"cells": [*(column(machine) for column in columns), machine.fence], "lease": lease_text(machine)}


def lease_text(machine: Any) -> str:
    """Return what a form has of a lease. Browsers send another line break than they were given: so there is none."""
    return f"{machine.fence}:{machine.name.id.encode().hex()}"


def lease_of(text: str) -> tuple[str, int]:
    """Return the id of a machine and the fence of its lease. Raises ``BadRequest``."""
    lease = re.fullmatch("(0|[1-9][0-9]{0,18}):([0-9a-f]+)", text)
    if lease and (fence := int(lease[1])) <= BigIntegerField.MAX_BIGINT:
        with suppress(ValueError):
            return machine_id(bytes.fromhex(lease[2]).decode()), fence
    raise BadRequest(_("That is no lease."))


def _release(window: Any, request: HttpRequest, alias: str, leases: list[tuple[str, int]], reason: str) -> None:
    owners = {row.name.id: row.lease_owner for row in rows_at(alias, [id for id, _fence in leases])}
    released = gone = 0
    for id, fence in leases:
        lease = f"lease {fence} of {visible(owners.get(id) or '')}: {visible(reason)}"
        try:
            if _is_released(window, request, Name(alias, id), fence, lease):
                released += 1
            else:
                gone += 1
        except StoreError as error:
            window.message_user(request, str(error), messages.ERROR)
    if released:
        text = ngettext("Released %(count)d lease.", "Released %(count)d leases.", released)
        window.message_user(request, text % {"count": released}, messages.SUCCESS)
    if gone:
        text = ngettext(
            "%(count)d lease was over by then, or somebody else has it now: look again.",
            "%(count)d leases were over by then, or somebody else has them now: look again.",
            gone,
        )
        window.message_user(request, text % {"count": gone}, messages.WARNING)


def _is_released(window: Any, request: HttpRequest, name: Name, fence: int, lease: str) -> bool:
    """End the lease that was shown, and none that was granted since. Noted before, it never goes unnoted."""
    memory = memories[name.memory]
    database, note = memory.store.database, None
    try:
        with nullcontext() if database is None else transaction.atomic(using=database):
            note = window.log_change(request, MachineRecord(pk=str(name)), f"Forced the release of {lease}")
            released = memory.force_unlock(name.id, fence=fence)
            if not released:
                note.delete()
    except (StoreError, Error) as error:
        # In the database of the machine the note is gone by now; elsewhere it says what is known.
        if note is not None:
            why = error if isinstance(error, StoreError) else type(error).__name__
            LogEntry.objects.filter(pk=note.pk).update(change_message=f"Tried to force the release of {lease} ({why})")
        raise
    return released
