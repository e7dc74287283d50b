"""How what is stored looks on a page: escaped, made visible, folded, cut."""

import json
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django.contrib.admin.utils import quote
from django.urls import reverse
from django.utils.formats import date_format
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.timesince import timesince
from django.utils.timezone import localtime
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from machine_memory.admin.memories import MEMORY, Name, default_alias
from machine_memory.core.validation import visible

NOTHING = SafeString("-")
MAX_VALUES = 2_000
"""Values of a state; the download has them all."""
MAX_TEXT = 2_000
"""Characters of one text of a state."""
MAX_LABEL = 60
"""Characters of an id or a label in a list."""
OPEN_LEVELS = 2
MINUTE = 60


def list_url(site: str, alias: str, model: str | None = "machinerecord", **asked: str) -> str:
    asked |= {} if alias == default_alias() else {MEMORY: alias}
    address = reverse(f"admin:machine_memory_{model}_changelist", current_app=site)
    return f"{address}?{urlencode(asked)}" if asked else address


def machine_url(site: str, view: str, name: Name) -> str:
    return reverse(f"admin:machine_memory_machinerecord_{view}", args=[quote(str(name))], current_app=site)


def exactly(text: str | None) -> SafeString:
    # <bdi>: what is written from right to left must not turn its surroundings around.
    return NOTHING if text is None else format_html("<bdi>{}</bdi>", visible(text))


def shortly(text: str | None) -> SafeString:
    """Show the beginning of a text, as in a list."""
    return exactly(text if text is None or len(text) <= MAX_LABEL else f"{text[:MAX_LABEL]}…")


def link(site: str, name: Name) -> SafeString:
    return format_html('<a href="{}">{}</a>', machine_url(site, "change", name), shortly(name.id))


def badge(state: str) -> SafeString:
    words = {"held": _("Held"), "expired": _("Expired"), "free": _("Free")}
    return format_html('<span class="mm-badge mm-{}">{}</span>', state, words[state])


def ago(moment: datetime | None, now: datetime) -> SafeString:
    if moment is None:
        return NOTHING
    return format_html("{} {}", age(moment, now), at(moment))


def age(moment: datetime, now: datetime) -> str:
    seconds = max(0, int((now - moment).total_seconds()))
    if seconds < MINUTE:
        return ngettext("%(count)d second ago", "%(count)d seconds ago", seconds) % {"count": seconds}
    return _("%(time)s ago") % {"time": timesince(moment, now, depth=1)}


def at(moment: datetime | None) -> SafeString:
    if moment is None:
        return NOTHING
    return format_html('<span class="mm-moment">{}</span>', date_format(localtime(moment), "Y-m-d H:i:s"))


def time_left(moment: datetime | None, now: datetime) -> SafeString:
    """Say how long a lease lasts, in seconds too for the script that counts them down, or since when it is over."""
    if moment is None:
        return SafeString("")
    seconds = (moment - now).total_seconds()
    if seconds <= 0:
        return format_html('<span class="mm-over">{}</span>', age(moment, now))
    return format_html('<span class="mm-left" data-seconds="{}">{}</span>', f"{seconds:.1f}", _clock(seconds))


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def folded(value: object) -> SafeString:
    """Return JSON as nested lists that fold."""
    return _Folding().value(value, level=0)


class _Folding:
    def __init__(self) -> None:
        self._left = MAX_VALUES

    def value(self, value: object, *, level: int) -> SafeString:
        if isinstance(value, dict):
            names = [format_html('<span class="mm-key">{}</span>: ', _json(key)) for key in value]
            return self._container("{}", list(zip(names, value.values(), strict=True)), level)
        if isinstance(value, list):
            return self._container("[]", [(SafeString(""), item) for item in value], level)
        return format_html('<bdi class="mm-value">{}</bdi>', _json(value))

    def _container(self, brackets: str, items: list[tuple[SafeString, Any]], level: int) -> SafeString:
        if not items:
            return format_html('<span class="mm-value">{}</span>', brackets)
        shown = []
        for name, item in items:
            if not self._left:
                break
            self._left -= 1
            shown.append((name, self.value(item, level=level + 1)))
        entries = format_html_join("", "<li>{}{}</li>", shown)
        if rest := len(items) - len(shown):
            text = ngettext("… and %(count)d more", "… and %(count)d more", rest) % {"count": rest}
            entries += format_html('<li class="mm-cut">{}</li>', text)
        count = ngettext("%(count)d entry", "%(count)d entries", len(items)) % {"count": len(items)}
        return format_html(
            '<details class="mm-json"{}><summary>{} {}</summary><ul>{}</ul></details>',
            SafeString(" open") if level < OPEN_LEVELS else "",
            brackets,
            count,
            entries,
        )


def _json(value: object) -> str:
    if isinstance(value, str) and len(value) > MAX_TEXT:
        rest = len(value) - MAX_TEXT
        more = ngettext("… and %(count)d more character", "… and %(count)d more characters", rest) % {"count": rest}
        return visible(json.dumps(value[:MAX_TEXT], ensure_ascii=False)) + more
    return visible(json.dumps(value, ensure_ascii=False))
