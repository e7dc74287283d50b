"""What may go in beside state: checked in one place, before any query, alike for every backend."""

import json
import re
import unicodedata
from collections.abc import Mapping
from datetime import timedelta
from math import inf
from typing import TypeVar

from machine_memory.exceptions import (
    InvalidConfiguration,
    InvalidData,
    InvalidMachineId,
    InvalidTTL,
    InvalidVersion,
    MachineMemoryError,
)
from machine_memory.records import Metadata

MAX_ID_LENGTH = 512
MAX_LABEL_LENGTH = 255
MIN_TTL = 0.01
MAX_TTL = 24 * 60 * 60.0
MAX_AGE = 100 * 366 * 24 * 60 * 60.0
MAX_BATCH = 10_000
MAX_DEPTH = 100  # Python's own recursion ends somewhere above; MariaDB's at 31.
QUOTED = 64
_UNITS = {"": 1, "s": 1, "m": 60, "h": 60 * 60, "d": 24 * 60 * 60, "w": 7 * 24 * 60 * 60}
_UNSEEN = {"Cc", "Cf", "Co", "Cs", "Zl", "Zp"}


def quoted(value: object) -> str:
    """Return ``value`` as messages and logs may show it: escaped, and no more than 64 characters of it."""
    if isinstance(value, str):
        return repr(value) if len(value) <= QUOTED else f"{value[:QUOTED]!r}…"
    if value is None or isinstance(value, float) or (isinstance(value, int) and value.bit_length() <= QUOTED):
        return repr(value)
    return f"<{type(value).__name__}>"


def visible(text: str) -> str:
    """Return ``text`` as pages may show it: what is unseen, or would turn the line around, is escaped."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        json.dumps(character)[1:-1] if unicodedata.category(character) in _UNSEEN else character for character in text
    )


def machine_id(value: object, argument: str = "id") -> str:
    return _text(value, argument, MAX_ID_LENGTH, InvalidMachineId)


def ttl(value: object, argument: str = "ttl", *, least: float = MIN_TTL, most: float = MAX_TTL) -> float:
    """Return a duration in seconds."""
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise InvalidTTL(f"{argument} must be a number of seconds or a timedelta, not {quoted(value)}.")
    if not least <= seconds <= most:
        raise InvalidTTL(f"{argument} must be between {least:g} and {most:.15g} seconds, not {quoted(seconds)}.")
    return float(seconds)


def duration(text: str, argument: str) -> float:
    """Return the seconds of a duration as people write it: 90, 90s, 15m, 1h, 30d."""
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?) ?([smhdw]?)", text.strip(), re.ASCII)
    if match is None:
        raise InvalidTTL(
            f"{argument} must be a number with s, m, h, d or w, such as 90s, 1h or 30d, not {quoted(text)}."
        )
    return ttl(float(match[1]) * _UNITS[match[2]], argument, least=0, most=MAX_AGE)


Option = TypeVar("Option", int, float, bool)


def option(value: Option, name: str, kind: type[Option], *, most: float = inf) -> Option:
    """Return an option of a memory: a bool, or a positive number."""
    fits = isinstance(value, kind) or (kind is float and isinstance(value, int))
    if kind is bool:
        kinds = "a bool"
    else:
        kinds = f"a positive {kind.__name__}" + (f" up to {most}" if most < inf else "")
        fits = fits and not isinstance(value, bool) and 0 < value <= most
    if not fits:
        raise InvalidConfiguration(f"{name} must be {kinds}, not {quoted(value)}.")
    return value


def fence(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise InvalidVersion(f"fence must be an int from 0, that of a lease, not {quoted(value)}.")
    return value


def expected_version(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidVersion(f"expected_version must be an int from 0 (no state yet), not {quoted(value)}.")
    return value


_NO_METADATA = Metadata()


def metadata(value: object, data: Mapping[str, object]) -> Metadata:
    """Return ``value`` completed with what an Arvo record says of itself in ``data``."""
    if value is None:
        if "status" not in data and "parentSubject" not in data:
            return _NO_METADATA
        value = _NO_METADATA
    if not isinstance(value, Metadata):
        raise InvalidData(f"metadata must be a machine_memory.Metadata, not {quoted(value)}.")
    return Metadata(
        status=_label(value.status, "metadata.status") or _own(data, "status", MAX_LABEL_LENGTH),
        source=_label(value.source, "metadata.source"),
        initiator=_label(value.initiator, "metadata.initiator"),
        parent=_own(data, "parentSubject", MAX_ID_LENGTH)
        if value.parent is None
        else machine_id(value.parent, "metadata.parent"),
    )


def label(value: object, argument: str) -> str:
    return _text(value, argument, MAX_LABEL_LENGTH, InvalidData)


def has_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _text(value: object, argument: str, limit: int, error: type[MachineMemoryError]) -> str:
    if not isinstance(value, str):
        raise error(f"{argument} must be a str, not {quoted(value)}: convert it where it is made.")
    if not value:
        raise error(f"{argument} must not be empty.")
    if len(value) > limit:
        raise error(f"{argument} must be at most {limit} characters, not {len(value):,}: {quoted(value)}.")
    if "\0" in value:
        raise error(f"{argument} must not contain U+0000: {quoted(value)}.")
    if not value.isascii() and has_surrogate(value):
        raise error(f"{argument} must not contain a lone surrogate: {quoted(value)}.")
    return value


def _label(value: object, argument: str) -> str | None:
    return None if value is None else label(value, argument)


def _own(data: Mapping[str, object], key: str, limit: int) -> str | None:
    """Return what ``data`` says under ``key`` where it can serve; data of other make may mean something else by it."""
    value = data.get(key)
    if not isinstance(value, str):
        return None
    try:
        return _text(value, key, limit, InvalidData)
    except InvalidData:
        return None
