"""State as JSON: what reads back equal is encoded, at the speed of C; what would not is refused, with its place."""

import json
from itertools import chain
from math import isfinite
from typing import Any

from machine_memory.exceptions import InvalidData
from machine_memory.records import EncodedData
from machine_memory.validation import has_surrogate, quoted

MAX_INT_BITS = 14_000  # Python itself refuses to print more than 4,300 digits.
_CONTAINERS = frozenset([dict, list])
_SCALARS = frozenset([str, int, float, bool, type(None)])

as_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def decode(text: str | None) -> object:
    """Return what stored text says; text that is no JSON stands for itself, and is no state."""
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        return str(text)


def encoded(value: object) -> EncodedData | None:
    """Return the text of what was checked before; of ``None``, that is no state."""
    return value if value is None or isinstance(value, EncodedData) else EncodedData(as_json(value))


def encode(value: object, *, max_bytes: int, max_depth: int) -> EncodedData:
    """Return ``value`` as JSON that reads back equal, or say where it would not."""
    if not isinstance(value, dict):
        raise InvalidData(f"data must be a dict of JSON values, not {quoted(value)}.")
    plain = _encoded_if_plain(value, max_bytes, max_depth)
    if plain is None:
        try:
            _Check(max_bytes, max_depth).value(value)
        except _Refused as refused:
            raise InvalidData(f"data{refused.path} {refused}.") from None
        plain = _with_size(as_json(value))
    text, size = plain
    if size > max_bytes:
        raise InvalidData(f"data must be at most {max_bytes:,} bytes as JSON, not {size:,}.")
    return EncodedData(text)


def _with_size(text: str) -> tuple[str, int]:
    return text, len(text) if text.isascii() else len(text.encode())


def _encoded_if_plain(value: dict[Any, Any], max_bytes: int, max_depth: int) -> tuple[str, int] | None:
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
            raise InvalidData(f"data must be at most {max_bytes:,} bytes as JSON, and is larger.")
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
        if not text.isascii() and has_surrogate(text):
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
