"""Force the release of leases: shown first, confirmed with a reason, and noted in the admin log."""

import re
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.admin.utils import quote, unquote
from django.core.exceptions import BadRequest
from django.db import transaction
from django.db.models import BigIntegerField
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from machine_memory.backends.database import DatabaseMachineMemory
from machine_memory.exceptions import InvalidMachineId, StoreError
from machine_memory.handler import memories
from machine_memory.models import MachineRecord
from machine_memory.validation import machine_id, visible

AT_ONCE = 200


class ReasonForm(forms.Form):
    reason = forms.CharField(
        label=gettext_lazy("Reason"),
        max_length=500,
        help_text=gettext_lazy("It goes into the admin log, with your name."),
        widget=forms.TextInput(attrs={"class": "vTextField", "autofocus": True}),
    )


def shown_memory() -> DatabaseMachineMemory:
    """Return the memory whose machines the admin shows: the first of the settings that is kept in a database."""
    configured = (memories[alias] for alias in memories)
    kept_in_databases = (memory for memory in configured if isinstance(memory, DatabaseMachineMemory))
    return next(kept_in_databases, None) or DatabaseMachineMemory()


def force_release(window: Any, request: HttpRequest, machines: Any) -> HttpResponse | None:
    """Ask for a reason, or do it where one is given; ``None``: the user is told what came of it."""
    confirmed = request.POST.getlist("confirmed")
    form = ReasonForm(request.POST if confirmed else None)
    if form.is_valid():
        _release(window, request, [_lease(text) for text in confirmed], form.cleaned_data["reason"])
        return None
    held = list(machines.exclude(lease_token=None)[: AT_ONCE + 1])
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
        "action": request.POST.get("action", ""),
    }
    return TemplateResponse(request, "admin/machine_memory/force_release.html", context)


def _row(window: Any, machine: Any) -> dict[str, Any]:
    columns = (window.machine, window.lease, window.owner, window.since, window.until)
    return {
        "cells": [*(column(machine) for column in columns), machine.fence],
        "id": machine.pk,
        "lease": _shown(machine.pk, machine.fence),
    }


def _shown(id: str, fence: int) -> str:
    # Browsers send another line break than they were given.
    return f"{fence}:{quote(id)}".replace("\r", "_0D")


def _lease(text: str) -> tuple[str, int]:
    lease = re.fullmatch(r"(\d{1,19}):(.+)", text.replace("_0D", "\r"), re.ASCII | re.DOTALL)
    try:
        if lease:
            id, fence = machine_id(unquote(lease[2])), int(lease[1])
            if fence <= BigIntegerField.MAX_BIGINT and _shown(id, fence) == text:
                return id, fence
    except InvalidMachineId:
        pass
    raise BadRequest(_("That is no lease."))


def _release(window: Any, request: HttpRequest, leases: list[tuple[str, int]], reason: str) -> None:
    memory = shown_memory()
    rows = MachineRecord.objects.using(memory.using).filter(pk__in=[id for id, _fence in leases])
    owners = dict(rows.values_list("pk", "lease_owner"))
    released = 0
    for id, fence in leases:
        try:
            # The lease that was shown, and none that was granted since.
            with transaction.atomic(using=memory.using):
                if memory.force_unlock(id, fence=fence):
                    released += 1
                    note = f"Forced the release of lease {fence} of {visible(owners.get(id) or '')}: {reason}"
                    window.log_change(request, MachineRecord(pk=id), note)
        except StoreError as error:
            window.message_user(request, str(error), messages.ERROR)
    if released:
        text = ngettext("Released %(count)d lease.", "Released %(count)d leases.", released)
        window.message_user(request, text % {"count": released}, messages.SUCCESS)
    if gone := len(leases) - released:
        text = ngettext(
            "%(count)d lease was over by then, or somebody else has it now: look again.",
            "%(count)d leases were over by then, or somebody else has them now: look again.",
            gone,
        )
        window.message_user(request, text % {"count": gone}, messages.WARNING)
