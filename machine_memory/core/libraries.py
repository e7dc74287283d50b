"""The models of pydantic and msgspec, recognised by what they offer: what a project does not use is not needed."""

import json
import re
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from machine_memory.core.encoding import as_json
from machine_memory.core.misfits import Misfit, must_be

MOST = 200
"""Characters of what a library says."""
_WITHOUT_VALUES = re.compile(r"(?:Expected|Object) .*|[A-Za-z]\w*(?: [A-Za-z]\w*)*", re.DOTALL)
"""What msgspec says, and no more than its words where it goes on with a value, as in: Invalid enum value 'lost'."""
Conversion = Callable[[Any], Any]


class _Library(NamedTuple):
    """What a library does for a class."""

    of_json: Callable[[str], Any]
    to_json: Callable[[Any], str]
    to_plain: Conversion
    """The values of that JSON, with the numbers for which JSON has null."""
    refusal: type[Exception]
    said: Callable[[str, Any], Misfit]


def converter_of_library(kind: Any) -> tuple[Conversion, Conversion] | None:
    """Return how models of a class are read from JSON values, and become such; ``None``: no library knows it."""
    if hasattr(kind, "model_validate_json") and hasattr(kind, "model_dump_json"):
        return _both(kind, _pydantic(kind))
    if hasattr(kind, "__struct_fields__"):
        return _both(kind, _msgspec(kind))
    return None


def _both(kind: type, library: _Library) -> tuple[Conversion, Conversion]:
    # Both by way of JSON, for which the libraries have rules of their own: of bytes, of sets, of what is strict.
    refused = f"is refused by {kind.__name__}"

    def read(text: str) -> Any:
        try:
            return library.of_json(text)
        except library.refusal as error:
            raise library.said(refused, error) from None  # It quotes the values.
        except Exception as error:
            raise Misfit(f"{refused} ({type(error).__name__})") from error

    def load(value: object) -> Any:
        try:
            text = as_json(value)
        except ValueError:
            raise Misfit("has a number that JSON does not have") from None
        return read(text)

    def dump(value: object) -> Any:
        if type(value) is not kind:  # Of one that inherits from it, a part would be lost.
            raise must_be(kind.__name__, value)
        try:
            text = library.to_json(value)
            dumped = json.loads(text)
            if "null" in text and (plain := library.to_plain(value)) != dumped:
                dumped = _with_numbers(dumped, plain)
        except Exception as error:
            raise Misfit(f"cannot become JSON ({type(error).__name__})") from error
        try:
            text = as_json(dumped)
        except ValueError:  # Such a number is told by its place where the state is checked.
            return dumped
        read(text)  # Neither library checks values that were assigned.
        return dumped

    return load, dump


def _with_numbers(dumped: Any, plain: Any) -> Any:
    """Return what JSON says with the numbers that it does not have, where a library wrote null for them."""
    if isinstance(dumped, dict) and isinstance(plain, dict):
        return {key: _with_numbers(value, plain.get(key)) for key, value in dumped.items()}
    if isinstance(dumped, list) and isinstance(plain, list | tuple):
        return [_with_numbers(*pair) for pair in zip(dumped, plain, strict=True)]
    return plain if dumped is None and isinstance(plain, float) else dumped


def _pydantic(kind: Any) -> _Library:
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415  # Whoever has a model has it.

    options: Any = {"by_alias": True, "round_trip": True, "warnings": False}

    @cache
    def models() -> Any:  # In a list, as for a model itself its configuration cannot be another.
        config: Any = {**kind.model_config, "ser_json_inf_nan": "constants"}
        return TypeAdapter(list[kind], config=config)

    return _Library(
        of_json=kind.model_validate_json,
        to_json=lambda model: str(model.model_dump_json(**options)),
        to_plain=lambda model: models().dump_python([model], mode="json", **options)[0],
        refusal=ValidationError,
        said=_said_by_pydantic,
    )


def _msgspec(kind: Any) -> _Library:
    from msgspec import ValidationError, to_builtins  # noqa: PLC0415  # Whoever has a Struct has it.
    from msgspec.json import Decoder, encode  # noqa: PLC0415

    def of_raw(raw: Any) -> Any:
        return json.loads(bytes(raw))

    return _Library(
        of_json=Decoder(kind).decode,
        to_json=lambda struct: encode(struct).decode(),
        to_plain=lambda struct: to_builtins(struct, str_keys=True, enc_hook=of_raw),
        refusal=ValidationError,
        said=_said_by_msgspec,
    )


def _said_by_pydantic(refused: str, error: Any) -> Misfit:
    first, *more = error.errors(include_url=False, include_context=False, include_input=False)
    others = f", and {len(more)} more" if more else ""
    return Misfit(f"{refused}: {first['type'][:MOST]}{others}", tuple(reversed(first["loc"])))


def _said_by_msgspec(refused: str, error: Exception) -> Misfit:
    text, at, place = str(error).rpartition(" - at `")
    if not at:
        text, place = place, ""
    here = f"{place.removeprefix('key` in `').removeprefix('$').rstrip('`')} {refused}".strip()
    if error.__cause__ is not None:  # Code of the caller's own said it.
        return Misfit(f"{here} ({type(error.__cause__).__name__})")
    words = _WITHOUT_VALUES.match(text)
    return Misfit(f"{here}: {words[0][:MOST]}" if words else here)
