"""Between JSON values and the types that callers declare: TypedDicts and dataclasses, and what they are made of."""

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from operator import attrgetter
from typing import Any, NamedTuple
from uuid import UUID

from machine_memory.core.libraries import converter_of_library
from machine_memory.core.misfits import Misfit, must_be
from machine_memory.core.validation import quoted
from machine_memory.exceptions import InvalidConfiguration

_TEXTS: dict[Any, tuple[Callable[[Any], str], Callable[[str], Any]]] = {
    datetime: (datetime.isoformat, datetime.fromisoformat),
    date: (date.isoformat, date.fromisoformat),
    Decimal: (str, Decimal),
    UUID: (str, UUID),
}
"""What JSON has as text, in both directions."""


class Converter(NamedTuple):
    """How a type is read from JSON values, and becomes such. Both raise ``Misfit`` for what is not of the type."""

    load: Callable[[Any], Any]
    dump: Callable[[Any], Any]


def converter_of(kind: Any) -> Converter:
    """Return how states of a class are converted. Raises ``InvalidConfiguration`` where that cannot be known."""
    if not isinstance(kind, type) or not (converter_of_library(kind) or _has_fields(kind)):
        name = kind.__name__ if isinstance(kind, type) else quoted(kind)
        raise InvalidConfiguration(
            f"A state is a TypedDict, a dataclass, a pydantic model or a msgspec Struct, and {name} is none of them."
        )
    return _Converters().of(kind, kind.__name__)


class _Converters:
    """Makes the converters of a type and of all that it is made of, itself perhaps among that."""

    def __init__(self) -> None:
        self._begun: dict[Any, _Fields] = {}

    def of(self, hint: Any, place: str) -> Converter:
        while same := getattr(hint, "__supertype__", getattr(hint, "__value__", None)):  # Of a NewType, of an alias.
            hint = same
        if hint in _ALIKE:
            return Converter(_ALIKE[hint], _ALIKE[hint])
        if hint in _TEXTS:
            return _text(hint)
        converter = self._of_parts(typing.get_origin(hint) or hint, typing.get_args(hint), place)
        if converter is None and isinstance(hint, type):
            converter = self._of_class(hint)
        if converter is None:
            raise InvalidConfiguration(
                f"{place} is {getattr(hint, '__name__', hint)}, which is not converted here: see the types that are in"
                " the documentation, or make the state a pydantic model or a msgspec Struct."
            )
        return converter

    def _of_parts(self, origin: Any, arguments: tuple[Any, ...], place: str) -> Converter | None:
        if origin is typing.Literal:
            return _literal(arguments)
        if origin in (typing.Union, types.UnionType):
            members = [self.of(one, place) for one in arguments if one is not types.NoneType]
            return _union(members, optional=types.NoneType in arguments)
        if origin in (list, tuple) and arguments[1:] in ((), (...,)):
            return _list(origin, self.of(arguments[0] if arguments else Any, place))
        if origin in (dict, Mapping) and arguments[:1] in ((), (str,)):
            return _dict(self.of(arguments[1] if arguments else Any, place))
        return None

    def _of_class(self, kind: Any) -> Converter | None:
        if issubclass(kind, Enum) and all(type(member.value) in (str, int) for member in kind):
            return _enum(kind)
        if library := converter_of_library(kind):
            return Converter(*library)
        if not _has_fields(kind):
            return None
        if kind not in self._begun:
            self._begun[kind] = fields = _Fields(kind)
            fields.converters |= {name: self.of(hint, f"{kind.__name__}.{name}") for name, hint in fields.hints.items()}
        return Converter(self._begun[kind].load, self._begun[kind].dump)


class _Fields:
    """Converts a TypedDict, which keeps keys that it does not name, or a dataclass, which refuses them."""

    def __init__(self, kind: Any) -> None:
        self._kind, self._is_open = kind, _is_typed_dict(kind)
        self.converters: dict[str, Converter] = {}
        try:
            self.hints = typing.get_type_hints(kind)
        except (NameError, TypeError) as error:
            raise InvalidConfiguration(
                f"The annotations of {kind.__name__} cannot be resolved ({error}): define what they name in its module."
            ) from error
        if self._is_open:
            self._required = _required_keys(kind)
        else:
            fields = [field for field in dataclasses.fields(kind) if field.init]
            self.hints = {field.name: self.hints[field.name] for field in fields}
            missing = dataclasses.MISSING
            self._required = {f.name for f in fields if f.default is missing and f.default_factory is missing}

    def load(self, value: object) -> Any:
        if not isinstance(value, dict):
            raise must_be("an object", value)
        loaded = self._each(value, attrgetter("load"))
        if self._is_open:
            return loaded
        try:
            return self._kind(**loaded)
        except Exception as error:
            raise Misfit(f"is refused by {self._kind.__name__} ({type(error).__name__})") from error

    def dump(self, value: Any) -> dict[str, Any]:
        if not (isinstance(value, Mapping) if self._is_open else type(value) is self._kind):
            raise must_be(self._kind.__name__, value)  # Of one that inherits from it, a part would be lost.
        values = value if self._is_open else {name: getattr(value, name) for name in self.hints}
        return self._each(values, attrgetter("dump"))

    def _each(self, values: Mapping[str, Any], way: Callable[[Converter], Callable[[Any], Any]]) -> dict[str, Any]:
        if missing := self._required - values.keys():
            raise Misfit(f"lacks {quoted(min(missing))}")
        if not self._is_open and (unknown := values.keys() - self.hints.keys()):
            raise Misfit(f"has {quoted(min(unknown))}, which {self._kind.__name__} does not know")
        known = self.converters
        return {key: _at(key, way(known[key]), value) if key in known else value for key, value in values.items()}


def _has_fields(kind: Any) -> bool:
    return dataclasses.is_dataclass(kind) or _is_typed_dict(kind)


def _is_typed_dict(kind: Any) -> bool:
    """Say whether it is a TypedDict: that of typing, or of typing_extensions."""
    return issubclass(kind, dict) and hasattr(kind, "__required_keys__")


def _required_keys(kind: Any) -> set[str]:
    # Python itself does not see what is said in an annotation that is text, as all are with a future import.
    said = {name: typing.get_origin(hint) for name, hint in typing.get_type_hints(kind, include_extras=True).items()}
    required = {name for name, origin in said.items() if origin is typing.Required}
    return required | {name for name in kind.__required_keys__ if said[name] is not typing.NotRequired}


def _at(key: object, convert: Callable[[Any], Any], value: object) -> Any:
    try:
        return convert(value)
    except Misfit as misfit:
        misfit.path.append(key)
        raise


def _same(value: object) -> object:
    return value


def _scalar(name: str, *kinds: type) -> Callable[[object], object]:
    def check(value: object) -> object:
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise must_be(name, value)
        return value

    return check


_ALIKE: dict[Any, Callable[[Any], Any]] = {
    Any: _same,
    object: _same,
    str: _scalar("str", str),
    int: _scalar("int", int),
    float: _scalar("float", float, int),
    bool: _scalar("bool", bool),
    types.NoneType: _scalar("null", types.NoneType),
}
"""What JSON has as it is."""


def _text(kind: Any) -> Converter:
    as_text, of_text = _TEXTS[kind]

    def load(value: object) -> object:
        if not isinstance(value, str):
            raise must_be(f"{kind.__name__} as text", value)
        try:
            return of_text(value)
        except (ValueError, ArithmeticError):
            raise Misfit(f"must be {kind.__name__} as text, and is another text") from None

    def dump(value: object) -> str:
        if type(value) is not kind:  # A datetime is a date, too.
            raise must_be(kind.__name__, value)
        return as_text(value)

    return Converter(load, dump)


def _literal(values: tuple[Any, ...]) -> Converter:
    known = {(type(value), value) for value in values}  # True is 1 otherwise.

    def check(value: object) -> object:
        if not isinstance(value, (str, int, types.NoneType)) or (type(value), value) not in known:
            raise Misfit(f"must be one of {', '.join(map(quoted, values))}")
        return value

    return Converter(check, check)


def _enum(kind: type[Enum]) -> Converter:
    members = {(type(member.value), member.value): member for member in kind}
    known = frozenset(members.values())

    def load(value: object) -> Enum:
        member = members.get((type(value), value)) if isinstance(value, (str, int)) else None
        if member is None:
            raise must_be(f"a value of {kind.__name__}", value)
        return member

    def dump(value: object) -> object:
        if not isinstance(value, kind) or value not in known:  # Flags together are no member.
            raise must_be(f"a member of {kind.__name__}", value)
        return value.value

    return Converter(load, dump)


def _union(members: list[Converter], *, optional: bool) -> Converter:
    loads, dumps = [member.load for member in members], [member.dump for member in members]

    def first(ways: list[Callable[[Any], Any]], value: object) -> tuple[int, Any]:
        if optional and value is None:
            return len(ways), None
        misfits = []
        for number, convert in enumerate(ways):
            try:
                return number, convert(value)
            except Misfit as misfit:
                misfits.append(misfit)
        raise max(misfits, key=lambda misfit: len(misfit.path))  # Which it was meant to be, most likely.

    def dump(value: object) -> object:
        number, dumped = first(dumps, value)
        if len(members) > 1 and first(loads, dumped)[0] != number:
            raise Misfit(f"is a {type(value).__name__}, and another type of its union would be read back")
        return dumped

    return Converter(lambda value: first(loads, value)[1], dump)


def _list(kind: Any, items: Converter) -> Converter:
    def load(value: object) -> Any:
        if not isinstance(value, list):
            raise must_be("a list", value)
        return kind(_at(index, items.load, item) for index, item in enumerate(value))

    def dump(value: Any) -> list[Any]:
        if not isinstance(value, kind):
            raise must_be(f"a {kind.__name__}", value)
        return [_at(index, items.dump, item) for index, item in enumerate(value)]

    return Converter(load, dump)


def _dict(values: Converter) -> Converter:
    def each(convert: Callable[[Any], Any], value: object) -> dict[Any, Any]:
        if not isinstance(value, Mapping):
            raise must_be("an object", value)
        return {key: _at(key, convert, item) for key, item in value.items()}

    return Converter(lambda value: each(values.load, value), lambda value: each(values.dump, value))
