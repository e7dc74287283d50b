"""The memories that the settings name: one instance per alias and process."""

import threading
from collections.abc import Iterator, Mapping
from typing import Any, cast

from django.conf import settings
from django.core.signals import setting_changed
from django.utils.connection import ConnectionProxy
from django.utils.module_loading import import_string

from machine_memory.backends.base import BaseMachineMemory
from machine_memory.exceptions import InvalidConfiguration
from machine_memory.validation import quoted

DEFAULT_MEMORY_ALIAS = "default"
DEFAULT_BACKEND = "machine_memory.backends.database.DatabaseMachineMemory"


class MemoryHandler:
    """Memories by alias, built when first used.

    Not Django's own handler: that builds one per thread, and an in-process memory would fall apart.
    """

    def __init__(self) -> None:
        self._memories: dict[str, BaseMachineMemory] = {}
        self._building = threading.RLock()  # The constructor of one may ask for another.
        setting_changed.connect(self._forget)

    def __getitem__(self, alias: str) -> BaseMachineMemory:
        try:
            return self._memories[alias]
        except KeyError:
            pass
        with self._building:
            if alias not in self._memories:
                self._memories[alias] = _build(alias)
            return self._memories[alias]

    def __iter__(self) -> Iterator[str]:
        return iter(_configured())

    def _forget(self, *, setting: str, **kwargs: Any) -> None:
        if setting in ("MACHINE_MEMORIES", "CACHES"):  # A memory in Redis keeps the client that it was built with.
            with self._building:
                self._memories = {}


def _configured() -> Mapping[str, Any]:
    return _mapping(getattr(settings, "MACHINE_MEMORIES", {DEFAULT_MEMORY_ALIAS: {}}), "MACHINE_MEMORIES")


def _build(alias: str) -> BaseMachineMemory:
    memories = _configured()
    setting = f"MACHINE_MEMORIES[{quoted(alias)}]"
    if alias not in memories:
        known = ", ".join(quoted(name) for name in memories) or "none"
        raise InvalidConfiguration(f"{setting} is missing. Configured: {known}.")
    params = dict(_mapping(memories[alias], setting))
    backend = _backend(params.pop("BACKEND", DEFAULT_BACKEND), f"{setting}['BACKEND']")
    options = _mapping(params.pop("OPTIONS", {}), f"{setting}['OPTIONS']")
    try:
        memory = backend(**{name.lower(): value for name, value in params.items()}, **options)
    except (TypeError, ValueError, InvalidConfiguration) as error:
        raise InvalidConfiguration(f"{setting}: {error}") from error
    memory.alias = alias
    return memory


def _backend(path: object, setting: str) -> type[BaseMachineMemory]:
    try:
        backend = import_string(path) if isinstance(path, str) else None
    except ImportError as error:
        raise InvalidConfiguration(f"{setting}: {error}") from error
    if not (isinstance(backend, type) and issubclass(backend, BaseMachineMemory)):
        raise InvalidConfiguration(f"{setting} must be the dotted path of a memory, not {quoted(path)}.")
    return backend


def _mapping(value: object, setting: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidConfiguration(f"{setting} must be a dict, not {quoted(value)}.")
    return value


memories = MemoryHandler()
memory = cast(BaseMachineMemory, ConnectionProxy(memories, DEFAULT_MEMORY_ALIAS))  # type: ignore[arg-type]
