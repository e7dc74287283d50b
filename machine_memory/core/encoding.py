"""State as JSON text, and back."""

import json
from collections.abc import Mapping
from typing import Any

from machine_memory.core.records import EncodedData


def _as_dict(value: object) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is nothing that JSON has")


as_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_as_dict).encode


def decode(text: str | None) -> object:
    """Return what stored text says; text that is no JSON stands for itself, and is no state."""
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        return str(text)


def as_stored(text: str | None) -> EncodedData | None:
    """Return stored text as what it is; of ``None``, that is no state."""
    return None if text is None else EncodedData(text)


def encoded(value: object) -> EncodedData | None:
    """Return the text of what was checked before; of ``None``, that is no state."""
    return value if value is None or isinstance(value, EncodedData) else EncodedData(as_json(value))
