"""One place that decides what goes in, before any query, alike for every backend."""

import json
import re
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from math import inf, isfinite
from typing import Any, TypeVar

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
MAX_INT_BITS = 14_000  # Python itself refuses to print more than 4,300 digits.
MAX_DEPTH = 100  # Python's own recursion ends somewhere above; MariaDB's at 31.
QUOTED = 64


def quoted(value: object) -> str:
    """Return ``value`` as messages and logs may show it: escaped, and no more than 64 characters of it."""
    if isinstance(value, str):
        return repr(value) if len(value) <= QUOTED else f"{value[:QUOTED]!r}…"
    if value is None or isinstance(value, float) or (isinstance(value, int) and value.bit_length() <= QUOTED):
        return repr(value)
    return f"<{type(value).__name__}>"


def machine_id(value: object, argument: str = "id") -> str:
    return _text(value, argument, MAX_ID_LENGTH, InvalidMachineId)


def ttl(value: object, argument: str = "ttl", *, least: float = MIN_TTL) -> float:
    """Return a duration in seconds."""
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise InvalidTTL(f"{argument} must be a number of seconds or a timedelta, not {quoted(value)}.")
    if not least <= seconds <= MAX_TTL:
        raise InvalidTTL(f"{argument} must be between {least:g} and {MAX_TTL:g} seconds, not {quoted(seconds)}.")
    return float(seconds)


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


def expected_version(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidVersion(f"expected_version must be an int from 0 (no state yet), not {quoted(value)}.")
    return value


def metadata(value: object, data: Mapping[str, object]) -> Metadata:
    """Return ``value`` completed with what an Arvo record says of itself in ``data``."""
    if value is None:
        value = Metadata()
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


class EncodedData(str):
    """Data that has been checked and encoded; the JSON column stores it as it is."""

    __slots__ = ()


class DataEncoder(json.JSONEncoder):
    """Encode data for the JSON column."""

    def encode(self, o: Any) -> str:
        return o if isinstance(o, EncodedData) else _encode(o)


def decoded(text: str | None) -> object:
    """Return what stored text says; text that is no JSON stands for itself, and is no state."""
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return text


def data(value: object, *, max_bytes: int, max_depth: int) -> EncodedData:
    """Return ``value`` as JSON that reads back equal, or say where it would not."""
    if not isinstance(value, dict):
        raise InvalidData(f"data must be a dict of JSON values, not {quoted(value)}.")
    try:
        _Check(max_bytes, max_depth).value(value)
    except _Refused as refused:
        raise InvalidData(f"data{refused.path} {refused}.") from None
    text = EncodedData(_encode(value))
    size = len(text) if text.isascii() else len(text.encode())
    if size > max_bytes:
        raise InvalidData(f"data must be at most {max_bytes:,} bytes as JSON, not {size:,}.")
    return text


class _Refused(Exception):
    """Gathers the path to a refused value on its way up."""

    path = ""

    def under(self, key: object) -> "_Refused":
        self.path = f"[{quoted(key)}]{self.path}"
        return self


class _Check:
    """Walk through JSON values; the budget of bytes also bounds structures that share their parts."""

    __slots__ = ("depth", "left", "max_bytes", "max_depth", "parents")

    def __init__(self, max_bytes: int, max_depth: int) -> None:
        self.max_bytes = self.left = max_bytes
        self.max_depth = max_depth
        self.parents: list[object] = []

    def value(self, value: object) -> None:
        if isinstance(value, str):
            self.text(value)
        elif isinstance(value, dict):
            self.enter(value)
            for key, item in value.items():
                if not isinstance(key, str):
                    raise _Refused(f"has a key that is not a str: {quoted(key)}")
                try:
                    self.text(key)
                    self.value(item)
                except _Refused as refused:
                    raise refused.under(key) from None
            self.parents.pop()
        elif isinstance(value, list):
            self.enter(value)
            for index, item in enumerate(value):
                try:
                    self.value(item)
                except _Refused as refused:
                    raise refused.under(index) from None
            self.parents.pop()
        else:
            self.scalar(value)

    def enter(self, container: object) -> None:
        if len(self.parents) >= self.max_depth:
            if any(container is parent for parent in self.parents):
                raise _Refused("contains itself")
            raise _Refused(f"is nested deeper than {self.max_depth} levels")
        self.parents.append(container)
        self.spend(2)

    def text(self, text: str) -> None:
        self.spend(len(text) + 3)
        if "\0" in text:
            raise _Refused(f"contains U+0000, which not every database can store: {quoted(text)}")
        if not text.isascii() and _has_surrogate(text):
            raise _Refused(f"contains a lone surrogate, which is not valid Unicode text: {quoted(text)}")

    def scalar(self, value: object) -> None:
        self.spend(2)
        if isinstance(value, float):
            if not isfinite(value):
                raise _Refused(f"is {value!r}, which JSON does not have")
        elif isinstance(value, int):
            if value.bit_length() > MAX_INT_BITS:
                raise _Refused("is an integer with more than 4,000 digits")
        elif value is not None:
            raise _Refused(f"is a {type(value).__name__}, which JSON does not have: convert it to text or a number")

    def spend(self, count: int) -> None:
        self.left -= count
        if self.left < -1:  # The last comma of the outermost object is counted, but never written.
            raise InvalidData(f"data must be at most {self.max_bytes:,} bytes as JSON, and is larger.")


_encode_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_LARGE_FLOAT = re.compile(r'"(?:[^"\\]|\\.)*"|(-?[\d.]+e\+\d+)')


def _encode(value: object) -> str:
    text = _encode_json(value)
    # PostgreSQL's jsonb would hand 1e+23 back as the integer 10**23, which is not equal to the float.
    return _LARGE_FLOAT.sub(_with_point, text) if "e+" in text else text


def _with_point(match: re.Match[str]) -> str:
    return f"{Decimal(match[1]):f}.0" if match[1] else match[0]


def _has_surrogate(text: str) -> bool:
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
    if not value.isascii() and _has_surrogate(value):
        raise error(f"{argument} must not contain a lone surrogate: {quoted(value)}.")
    return value


def _label(value: object, argument: str) -> str | None:
    return None if value is None else _text(value, argument, MAX_LABEL_LENGTH, InvalidData)


def _own(data: Mapping[str, object], key: str, limit: int) -> str | None:
    """Return what ``data`` says under ``key`` where it can serve; data of other make may mean something else by it."""
    value = data.get(key)
    try:
        return _text(value, key, limit, InvalidData)
    except InvalidData:
        return None
