"""The memories that the settings name: one instance per alias and process."""

import threading
from collections.abc import Iterator, Mapping
from typing import Any, cast

from django.conf import settings
from django.core.signals import setting_changed
from django.utils.connection import ConnectionProxy
from django.utils.module_loading import import_string

from machine_memory.backends.base import BaseMachineMemory
from machine_memory.exceptions import InvalidConfiguration, MachineMemoryError
from machine_memory.validation import quoted

DEFAULT_MEMORY_ALIAS = "default"
DEFAULT_BACKEND = "machine_memory.backends.database.DatabaseMachineMemory"


class MemoryHandler:
    """Memories by alias, built when first used.

    Not Django's own handler: that builds one per thread, and an in-process memory would fall apart.
    """

    def __init__(self) -> None:
        self._memories: dict[str, BaseMachineMemory] = {}
        self._building = threading.Lock()
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
        if setting == "MACHINE_MEMORIES":
            with self._building:
                self._memories = {}


def _configured() -> Mapping[str, Any]:
    memories = getattr(settings, "MACHINE_MEMORIES", {DEFAULT_MEMORY_ALIAS: {}})
    if not isinstance(memories, Mapping):
        raise InvalidConfiguration(f"MACHINE_MEMORIES must be a dict of aliases, not {quoted(memories)}.")
    return memories


def _build(alias: str) -> BaseMachineMemory:
    memories = _configured()
    setting = f"MACHINE_MEMORIES[{quoted(alias)}]"
    if alias not in memories:
        known = ", ".join(quoted(name) for name in memories) or "none"
        raise InvalidConfiguration(f"{setting} is missing. Configured: {known}.")
    if not isinstance(memories[alias], Mapping):
        raise InvalidConfiguration(f"{setting} must be a dict, not {quoted(memories[alias])}.")
    params = dict(memories[alias])
    path, options = params.pop("BACKEND", DEFAULT_BACKEND), params.pop("OPTIONS", {})
    try:
        backend = import_string(path)
        return cast(BaseMachineMemory, backend(**{name.lower(): value for name, value in params.items()}, **options))
    except ImportError as error:
        raise InvalidConfiguration(f"{setting}['BACKEND']: {error}") from error
    except (TypeError, MachineMemoryError) as error:
        raise InvalidConfiguration(f"{setting}: {error}") from error


memories = MemoryHandler()
memory = cast(BaseMachineMemory, ConnectionProxy(memories, DEFAULT_MEMORY_ALIAS))  # type: ignore[arg-type]
