"""What may go in: checked in one place, before any query, alike for every store."""

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from itertools import chain
from math import inf, isfinite
from typing import Any, TypeVar

from machine_memory import exceptions as errors
from machine_memory.core.encoding import as_json, decode
from machine_memory.core.records import KEEP, Claim, Criteria, EncodedData, Metadata, WakeAt

MAX_ID_LENGTH = 512
MAX_LABEL_LENGTH = 255
MAX_LABEL_BYTES = 600
"""Beside an id of 512 characters PostgreSQL's index of the status takes 632."""
MIN_TTL = 0.01
MAX_TTL = 24 * 60 * 60.0
MAX_AGE = 100 * 366 * 24 * 60 * 60.0
MAX_BATCH = 10_000
MAX_DEPTH = 100  # Python's own recursion ends somewhere above; MariaDB's at 31.
MAX_INT_BITS = 14_000  # Python itself refuses to print more than 4,300 digits.
QUOTED = 64
FIRST_MOMENT, LAST_MOMENT = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
_UNITS = {"": 1, "s": 1, "m": 60, "h": 60 * 60, "d": 24 * 60 * 60, "w": 7 * 24 * 60 * 60}
_CONTAINERS = frozenset([dict, list])
_SCALARS = frozenset([str, int, float, bool, type(None)])
_Path = tuple[tuple[object, object], ...]
"""Containers, each with the key that leads on from it."""
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
    return _text(value, argument, MAX_ID_LENGTH, errors.InvalidMachineId)


def machine_ids(values: object) -> list[str]:
    """Return ids, each once, in the order given."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise errors.InvalidMachineId(f"ids must be several ids, such as a list of them, not {quoted(values)}.")
    return list(dict.fromkeys(machine_id(value) for value in values))


def ttl(value: object, argument: str = "ttl", *, least: float = MIN_TTL, most: float = MAX_TTL) -> float:
    """Return a duration in seconds."""
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise errors.InvalidTTL(f"{argument} must be a number of seconds or a timedelta, not {quoted(value)}.")
    if not least <= seconds <= most:
        raise errors.InvalidTTL(f"{argument} must be between {least:g} and {most:.15g} seconds, not {quoted(seconds)}.")
    return float(seconds)


def duration(text: str, argument: str) -> float:
    """Return the seconds of a duration as people write it: 90, 90s, 15m, 1h, 30d."""
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?) ?([smhdw]?)", text.strip(), re.ASCII)
    if match is None:
        raise errors.InvalidTTL(
            f"{argument} must be a number with s, m, h, d or w, such as 90s, 1h or 30d, not {quoted(text)}."
        )
    return ttl(float(match[1]) * _UNITS[match[2]], argument, least=0, most=MAX_AGE)


def wake_at(value: object) -> WakeAt:
    """Return when a machine is to be due: a moment in UTC, or how much later."""
    if value is None or value is KEEP:
        return value
    if isinstance(value, timedelta):
        ttl(value, "wake_at", least=0, most=MAX_AGE)
        return value
    if not isinstance(value, datetime):
        raise errors.InvalidTTL(f"wake_at must be a timedelta, an aware datetime, None or KEEP, not {quoted(value)}.")
    if value.utcoffset() is None:
        raise errors.InvalidTTL("wake_at must be an aware datetime, with a time zone: use django.utils.timezone.")
    if not FIRST_MOMENT <= value <= LAST_MOMENT:
        raise errors.InvalidTTL(f"wake_at must be between the years 1970 and 9999, not in {value.year}.")
    return value.astimezone(UTC)


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
        raise errors.InvalidConfiguration(f"{name} must be {kinds}, not {quoted(value)}.")
    return value


def fence(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise errors.InvalidVersion(f"fence must be an int from 0, that of a lease, not {quoted(value)}.")
    return int(value)


def expected_version(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise errors.InvalidVersion(f"expected_version must be an int from 0 (no state yet), not {quoted(value)}.")
    return int(value)


_NO_METADATA = Metadata()


def metadata(value: object, data: Mapping[str, object]) -> Metadata:
    """Return ``value`` completed with what an Arvo record says of itself in ``data``."""
    if value is None:
        if "status" not in data and "parentSubject" not in data:
            return _NO_METADATA
        value = _NO_METADATA
    if not isinstance(value, Metadata):
        raise errors.InvalidData(f"metadata must be a machine_memory.Metadata, not {quoted(value)}.")
    return Metadata(
        status=_label(value.status, "metadata.status") or _own(data, "status", label),
        source=_label(value.source, "metadata.source"),
        initiator=_label(value.initiator, "metadata.initiator"),
        parent=_own(data, "parentSubject", machine_id)
        if value.parent is None
        else machine_id(value.parent, "metadata.parent"),
    )


def claim(limit: int, status: str | None, ttl: float, max_attempts: int, *, expired: bool) -> Claim:
    return Claim(
        limit=option(limit, "limit", int, most=MAX_BATCH),
        status=None if status is None else label(status, "status"),
        ttl=ttl,
        max_attempts=option(max_attempts, "max_attempts", int, most=MAX_BATCH),
        expired=option(expired, "expired", bool),
        secret="",
        owner="",
        trace=None,
    )


def label(value: object, argument: str) -> str:
    text = _text(value, argument, MAX_LABEL_LENGTH, errors.InvalidData)
    if not text.isascii() and (size := len(text.encode())) > MAX_LABEL_BYTES:
        raise errors.InvalidData(
            f"{argument} must be at most {MAX_LABEL_BYTES} bytes of UTF-8, not {size}: {quoted(text)}."
        )
    return text


def criteria(status: object, prefix: object, idle: object, exhausted: bool | None) -> Criteria:
    return Criteria(
        status=_label(status, "status"),
        prefix=None if prefix is None else machine_id(prefix, "prefix"),
        idle=None if idle is None else ttl(idle, "idle", least=0, most=MAX_AGE),
        exhausted=None if exhausted is None else option(exhausted, "exhausted", bool),
    )


def has_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _text(value: object, argument: str, limit: int, error: type[errors.MachineMemoryError]) -> str:
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
    return value if type(value) is str else str.__str__(value)


def _label(value: object, argument: str) -> str | None:
    return None if value is None else label(value, argument)


def _own(data: Mapping[str, object], key: str, checked: Callable[[object, str], str]) -> str | None:
    """Return what ``data`` says under ``key`` where it can serve; data of other make may mean something else by it."""
    value = data.get(key)
    if not isinstance(value, str):
        return None
    try:
        return checked(value, key)
    except (errors.InvalidData, errors.InvalidMachineId):
        return None


def state(value: object, *, max_bytes: int, max_depth: int) -> EncodedData:
    """Return ``value`` as JSON that reads back equal, or say where it would not."""
    if not isinstance(value, (dict, Mapping)):  # The first is told at once.
        raise errors.InvalidData(f"data must be a mapping of JSON values, such as a dict, not {quoted(value)}.")
    plain = _encoded_if_plain(value, max_bytes, max_depth)
    if plain is None:
        _Check(max_bytes, max_depth).value(value, ())
        plain = _with_size(as_json(value))
        if decode(plain[0]) != value:
            raise errors.InvalidData(
                "data would not read back equal: a mapping in it, such as a QueryDict, gives other items than it has."
                " Make a plain dict of it."
            )
    text, size = plain
    if size > max_bytes:
        raise errors.InvalidData(f"data must be at most {max_bytes:,} bytes as JSON, not {size:,}.")
    return EncodedData(text)


def _with_size(text: str) -> tuple[str, int]:
    return text, len(text) if text.isascii() else len(text.encode())


def _encoded_if_plain(value: Mapping[Any, Any], max_bytes: int, max_depth: int) -> tuple[str, int] | None:
    """Return JSON and bytes of what is beyond doubt, at the speed of C; ``None``: a closer look is needed."""
    level: list[Any] = [value]
    items = 0
    for _ in range(max_depth):
        kinds = set(map(type, level))
        if not kinds <= _CONTAINERS:
            return None
        dicts = [container for container in level if type(container) is dict] if list in kinds else level
        lists = [container for container in level if type(container) is list] if list in kinds else ()
        items += sum(map(len, level))
        if 2 * items >= max_bytes:  # Each takes a character, and a comma or bracket.
            raise errors.InvalidData(f"data must be at most {max_bytes:,} bytes as JSON, and is larger.")
        try:
            "".join(chain.from_iterable(dicts))
        except TypeError:  # A key is not a str.
            return None
        values = chain(chain.from_iterable(lists), chain.from_iterable(map(dict.values, dicts)))
        level = [item for item in values if type(item) not in _SCALARS]
        if not level:
            break
    else:
        return None
    try:
        plain = _with_size(as_json(value))
    except ValueError:  # A number that JSON does not have, or a lone surrogate.
        return None
    return None if "\\" in plain[0] and "\\u0000" in plain[0] else plain


class _Check:
    """Walk through JSON values; the budget of bytes also bounds structures that share their parts."""

    __slots__ = ("left", "max_bytes", "max_depth")

    def __init__(self, max_bytes: int, max_depth: int) -> None:
        self.max_bytes = self.left = max_bytes
        self.max_depth = max_depth

    def value(self, value: object, path: _Path) -> None:
        if isinstance(value, str):
            self.text(value, path)
        elif isinstance(value, (dict, list, Mapping)):
            self.container(value, path)
        else:
            self.scalar(value, path)

    def container(self, container: Mapping[object, object] | list[object], path: _Path) -> None:
        if len(path) >= self.max_depth:
            if any(container is parent for parent, _ in path):
                raise _refused("contains itself", path)
            raise _refused(f"is nested deeper than {self.max_depth} levels", path)
        self.spend(2)
        for key, item in enumerate(container) if isinstance(container, list) else container.items():
            here = (*path, (container, key))
            if not isinstance(container, list):
                if not isinstance(key, str):
                    raise _refused(f"has a key that is not a str: {quoted(key)}", path)
                self.text(key, here)
            self.value(item, here)

    def text(self, text: str, path: _Path) -> None:
        self.spend(len(text) + 3)
        if "\0" in text:
            raise _refused(f"contains U+0000, which not every database can store: {quoted(text)}", path)
        if not text.isascii() and has_surrogate(text):
            raise _refused(f"contains a lone surrogate, which is not valid Unicode text: {quoted(text)}", path)

    def scalar(self, value: object, path: _Path) -> None:
        self.spend(2)
        if isinstance(value, float):
            if not isfinite(value):
                raise _refused(f"is {value!r}, which JSON does not have", path)
        elif isinstance(value, int):
            if value.bit_length() > MAX_INT_BITS:
                raise _refused("is an integer with more than 4,000 digits", path)
        elif value is not None:
            kind = type(value).__name__
            raise _refused(f"is a {kind}, which JSON does not have: convert it to text or a number", path)

    def spend(self, count: int) -> None:
        self.left -= count
        if self.left < -1:  # The last comma of the outermost object is counted, but never written.
            raise errors.InvalidData(f"data must be at most {self.max_bytes:,} bytes as JSON, and is larger.")


def _refused(reason: str, path: _Path) -> errors.InvalidData:
    where = "".join(f"[{quoted(key)}]" for _, key in path)
    return errors.InvalidData(f"data{where} {reason}.")
