"""Test cases of ``unittest``, Django's among them, with memories of their own."""

import unittest
from typing import ClassVar

from machine_memory.testing.clock import Clock
from machine_memory.testing.isolation import Own, isolated_memories


class MemoryTestCase(unittest.TestCase):
    """Has each of its tests run with ``isolated_memories``: combine it with the ``TestCase`` that you use."""

    own_memories: ClassVar[Own] = False
    """The aliases that keep their own backend, see ``isolated_memories``."""
    memory_clock: Clock
    """The clock of the memories in this process."""

    def run(self, result: unittest.TestResult | None = None) -> unittest.TestResult | None:
        with isolated_memories(own=self.own_memories) as self.memory_clock:
            return super().run(result)
