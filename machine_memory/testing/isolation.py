"""Memories of a test's own, in the place of those that the settings name."""

import inspect
import secrets
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from machine_memory.core.contexts import of_its_own
from machine_memory.core.keeper import keeper
from machine_memory.core.memory import BaseMachineMemory
from machine_memory.core.store import Store
from machine_memory.exceptions import InvalidConfiguration
from machine_memory.handler import Configuration, Untyped, configuration_of, memories
from machine_memory.testing.clock import Clock

Own = bool | Collection[str]
"""The aliases that keep their own backend; ``True``: all of them."""


@contextmanager
def isolated_memories(*, own: Own = False) -> Iterator[Clock]:
    """Have an empty memory in this process for each alias of ``MACHINE_MEMORIES``, until the block ends.

    ``own``: the aliases, or all of them, that have their own backend: a database is that of the tests, as it is; in
    Redis there is a key prefix that nobody else has, of which all keys are deleted at the end. Leases that are still
    held then are forgotten. Yields the clock of the memories in this process.
    """
    places = _Places(own)
    with ExitStack() as stack:
        stack.callback(places.clear)
        stack.enter_context(of_its_own())
        stack.enter_context(memories.built_by(places.build))
        yield places.clock


class _Places:
    """Where the machines of a test are: by alias, so that they outlive a change of the settings."""

    def __init__(self, own: Own) -> None:
        if isinstance(own, str):
            raise InvalidConfiguration(f"own must be True, or a list of aliases: [{own!r}].")
        self._own = own
        self._prefix = f"test-{secrets.token_hex(8)}:"
        self._in_process: dict[str, Store] = {}
        self._elsewhere: list[Store] = []
        self.clock = Clock()

    def build(self, alias: str) -> Untyped:
        configuration = configuration_of(alias)
        if self._own is True or (self._own and alias in self._own):
            return self._build_own(configuration)
        in_process = configuration.in_process()
        memory = in_process.build(clock=self.clock)
        store = self._in_process.setdefault(alias, memory.store)
        return memory if store is memory.store else BaseMachineMemory(store, **in_process.options)

    def _build_own(self, configuration: Configuration) -> Untyped:
        memory = configuration.build()
        if memory.store.database is not None:
            return memory
        if "key_prefix" not in inspect.signature(configuration.backend.__init__).parameters:
            raise InvalidConfiguration(
                f"{configuration.setting}: a test cannot have its own {configuration.backend.__name__}: that takes no"
                " key_prefix to keep the machines of a test apart. Leave its alias out of `own`."
            )
        options: dict[str, Any] = {**configuration.options}
        options["key_prefix"] = options.get("key_prefix", "") + self._prefix  # Where its user may have keys.
        memory = Configuration(configuration.setting, configuration.backend, options).build()
        self._elsewhere.append(memory.store)
        return memory

    def clear(self) -> None:
        keeper.drop_all([*self._in_process.values(), *self._elsewhere])
        with ExitStack() as stack:  # Should one fail, the others are cleared all the same.
            for store in self._elsewhere:
                stack.callback(store.clear)
