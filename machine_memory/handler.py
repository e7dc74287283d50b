"""The memories that the settings name: one instance per alias and process."""

import inspect
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

from django.conf import settings
from django.core.signals import setting_changed
from django.utils.connection import ConnectionProxy
from django.utils.module_loading import import_string

from machine_memory.core.memory import BaseMachineMemory
from machine_memory.core.typed import Shape
from machine_memory.core.validation import quoted
from machine_memory.exceptions import InvalidConfiguration

DEFAULT_MEMORY_ALIAS = "default"
DEFAULT_BACKEND = "machine_memory.backends.database.DatabaseMachineMemory"
IN_MEMORY = " in memory "
"""Stands between the id of a machine and the alias of its memory, where the admin names both."""
IN_PROCESS = "machine_memory.backends.simple.SimpleMachineMemory"

Untyped = BaseMachineMemory[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Configuration:
    """What the settings say of one memory: its backend, and what that is built with."""

    setting: str
    backend: type[Untyped]
    options: Mapping[str, Any]

    def build(self, **more: Any) -> Untyped:
        try:
            return self.backend(**self.options, **more)
        except (TypeError, ValueError, InvalidConfiguration) as error:
            raise InvalidConfiguration(f"{self.setting}: {error}") from error

    def in_process(self) -> "Configuration":
        """Return that of a memory in this process, with those of the options that every memory has."""
        common = {name: self.options[name] for name in self.options if name in COMMON}
        return replace(self, backend=_backend(IN_PROCESS, "IN_PROCESS"), options=common)


COMMON = set(inspect.signature(BaseMachineMemory.__init__).parameters) - {"self", "store"}


@dataclass(slots=True, eq=False)
class _Layer:
    build: Callable[[str], Untyped]
    memories: dict[tuple[str, bool], Untyped] = field(default_factory=dict)
    """By alias, and whether they were built for a test."""


class MemoryHandler:
    """Memories by alias, built when first used.

    Not Django's own handler: that builds one per thread, and an in-process memory would fall apart.
    """

    def __init__(self) -> None:
        self._layers = [_Layer(_usual)]
        self._building = threading.RLock()  # The constructor of one may ask for another.
        setting_changed.connect(self._forget)

    def __getitem__(self, alias: str) -> Untyped:
        layer, key = self._layers[-1], (alias, _is_tested())
        try:
            return layer.memories[key]
        except KeyError:
            pass
        with self._building:
            if key not in layer.memories:
                built = layer.build(alias)
                built.steps.name(alias)
                built._of_its_name = partial(self.__getitem__, alias)
                layer.memories[key] = built
            return layer.memories[key]

    def __iter__(self) -> Iterator[str]:
        return iter(_configured())

    @contextmanager
    def built_by(self, build: Callable[[str], Untyped]) -> Iterator[None]:
        """Have memories that are built otherwise, for tests, until the block ends; then those of before are back."""
        layer = _Layer(build)
        self._layers.append(layer)
        try:
            yield
        finally:
            self._layers.remove(layer)

    def _forget(self, *, setting: str, **kwargs: Any) -> None:
        if setting in ("MACHINE_MEMORIES", "CACHES"):  # A memory in Redis keeps the client that it was built with.
            with self._building:
                for layer in self._layers:
                    layer.memories = {}


def _configured() -> Mapping[str, Any]:
    return _mapping(getattr(settings, "MACHINE_MEMORIES", {DEFAULT_MEMORY_ALIAS: {}}), "MACHINE_MEMORIES")


def configuration_of(alias: str) -> Configuration:
    """Return what the settings say of a memory. Raises ``InvalidConfiguration``."""
    memories = _configured()
    setting = f"MACHINE_MEMORIES[{quoted(alias)}]"
    if alias not in memories:
        known = ", ".join(quoted(name) for name in memories) or "none"
        raise InvalidConfiguration(f"{setting} is missing. Configured: {known}.")
    if IN_MEMORY in f" {alias}":
        raise InvalidConfiguration(
            f"{setting}: an alias must not have 'in memory' before another word: the admin could not tell its machines"
            " from those of other memories."
        )
    params = dict(_mapping(memories[alias], setting))
    backend = _backend(params.pop("BACKEND", DEFAULT_BACKEND), f"{setting}['BACKEND']")
    options = _mapping(params.pop("OPTIONS", {}), f"{setting}['OPTIONS']")
    given = {name.lower(): value for name, value in params.items()}
    if twice := ", ".join(given.keys() & options):
        raise InvalidConfiguration(f"{setting}: {twice} is given twice, beside OPTIONS and in them.")
    return Configuration(setting, backend, {**given, **options})


def _usual(alias: str) -> Untyped:
    """Build a memory as the settings say, but for what no test may touch unless it says so.

    While Django's test environment is set up, a database is that of the tests; in the place of another store, that of
    production as likely as not, there is a memory in this process.
    """
    configuration = configuration_of(alias)
    memory = configuration.build()
    stand_in = configuration.in_process()
    if _is_tested() and memory.store.database is None and not isinstance(memory, stand_in.backend):
        return stand_in.build()
    return memory


def _is_tested() -> bool:
    """Say whether Django's test environment is set up, as its runner does, and pytest-django."""
    utils: Any = sys.modules.get("django.test.utils")
    return utils is not None and hasattr(getattr(utils, "_TestState", None), "saved_data")


def _backend(path: object, setting: str) -> type[Untyped]:
    backend = imported(path, setting) if isinstance(path, str) else None
    if not (isinstance(backend, type) and issubclass(backend, BaseMachineMemory)):
        raise InvalidConfiguration(f"{setting} must be the dotted path of a memory, not {quoted(path)}.")
    return backend


def imported(path: str, name: str) -> Any:
    """Return what a dotted path leads to, and name in what is wrong with it who gave it."""
    if path.startswith("."):  # Of such a one Python does not say that there is no module.
        raise InvalidConfiguration(f"{name} must be a dotted path from the top, not {quoted(path)}.")
    try:
        return import_string(path)
    except ImportError as error:
        raise InvalidConfiguration(f"{name}: {error}") from error


def _mapping(value: object, setting: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidConfiguration(f"{setting} must be a dict, not {quoted(value)}.")
    for key in value:
        if not isinstance(key, str):
            raise InvalidConfiguration(f"{setting} must have keys that are str, not {quoted(key)}.")
    return value


class _Typed:
    """The memories by alias, with states of a type."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape

    def __getitem__(self, alias: str) -> Any:
        return memories[alias]._of(self._shape)


class _Default(ConnectionProxy):  # type: ignore[type-arg]  # It cannot be subscripted at run time.
    """The default memory of whatever the settings say by then, with states of a type or of none."""

    def __repr__(self) -> str:
        return repr(self._connections[self._alias])

    def typed(self, kind: type, **options: Any) -> Any:
        view: Any = _Typed(Shape(kind, **options))
        return _Default(view, self._alias)


memories = MemoryHandler()
memory = cast(Untyped, _Default(memories, DEFAULT_MEMORY_ALIAS))  # type: ignore[arg-type]
