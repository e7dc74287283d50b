"""For the tests of a project: memories of their own, a clock to move, and failures to stage."""

from machine_memory.testing.cases import MemoryTestCase
from machine_memory.testing.clock import Clock
from machine_memory.testing.isolation import isolated_memories
from machine_memory.testing.staging import (
    Crash,
    Somebody,
    crash,
    denied,
    failing,
    held_by_another,
    reply_lost,
    taken_over,
)

__all__ = [
    "Clock",
    "Crash",
    "MemoryTestCase",
    "Somebody",
    "crash",
    "denied",
    "failing",
    "held_by_another",
    "isolated_memories",
    "reply_lost",
    "taken_over",
]
