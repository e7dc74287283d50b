"""The memories that the settings name."""

import threading
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from redis import Redis

from machine_memory import (
    DatabaseMachineMemory,
    InvalidConfiguration,
    RedisMachineMemory,
    SimpleMachineMemory,
    memories,
    memory,
)
from tests.conftest import in_thread

SIMPLE = "machine_memory.backends.simple.SimpleMachineMemory"


def configured(**aliases: Any) -> Any:
    return override_settings(MACHINE_MEMORIES=aliases)


def test_without_settings_the_default_database_is_the_memory(settings: Any) -> None:
    del settings.MACHINE_MEMORIES

    default = memories["default"]
    assert isinstance(default, DatabaseMachineMemory)
    assert (default.store.database, default.lock_ttl) == ("default", 120)
    assert list(memories) == ["default"]


def test_the_singular_is_the_default_one() -> None:
    with configured(default={"BACKEND": SIMPLE, "LOCK_TTL": 7}):
        assert memory.lock_ttl == 7
        assert memory.lock("a") is True
        assert [info.id for info in memories["default"].held_locks()] == ["a"]


def test_in_a_shell_each_says_what_it_is() -> None:
    url = "redis://someone:secret@127.0.0.1:1/0"
    redis = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": url}
    backend = {"BACKEND": "machine_memory.backends.redis.RedisMachineMemory", "OPTIONS": {"cache": "machines"}}
    with (
        override_settings(CACHES={"machines": redis}),
        configured(default={"OPTIONS": {"using": "main"}}, fast={"BACKEND": SIMPLE}, far=backend),
    ):
        assert repr(memory) == repr(memories["default"]) == "<DatabaseMachineMemory 'default' in database 'main'>"
        assert repr(memories["fast"]) == "<SimpleMachineMemory 'fast' in this process>"
        assert repr(memories["far"]) == "<RedisMachineMemory 'far' in cache 'machines'>"
    own = RedisMachineMemory(client=Redis.from_url(url), key_prefix="shop:")
    assert repr(own) == "<RedisMachineMemory '-' in Redis, under 'shop:machine:'>"
    assert repr(SimpleMachineMemory()) == "<SimpleMachineMemory '-' in this process>"


def test_keys_and_options_become_arguments() -> None:
    options = {"LOCK_TTL": 60, "MAX_DATA_BYTES": 1000, "MAX_DATA_DEPTH": 3, "REQUIRE_LEASE": True}
    with configured(other={**options, "OPTIONS": {"using": "elsewhere"}}):
        other = memories["other"]

    assert isinstance(other, DatabaseMachineMemory)
    assert (other.store.database, other.lock_ttl, other.max_data_bytes) == ("elsewhere", 60, 1000)
    assert (other.max_data_depth, other.require_lease) == (3, True)


def test_there_is_one_instance_for_all_threads() -> None:
    barrier = threading.Barrier(8)
    found = []

    def find() -> None:
        barrier.wait(10)
        found.append(memories["default"])

    with configured(default={"BACKEND": SIMPLE}):
        threads = [threading.Thread(target=find) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_settings_are_read_when_used_and_never_written() -> None:
    setting = {"BACKEND": SIMPLE, "LOCK_TTL": 5, "OPTIONS": {}}
    with configured(default=setting):
        first = memories["default"]
        with configured(default={"BACKEND": SIMPLE, "LOCK_TTL": 6}):
            assert memories["default"].lock_ttl == 6
        assert memories["default"].lock_ttl == 5
        assert memories["default"] is not first
    assert setting == {"BACKEND": SIMPLE, "LOCK_TTL": 5, "OPTIONS": {}}


@pytest.mark.parametrize(
    ("aliases", "message"),
    [
        ([], "MACHINE_MEMORIES must be a dict, not <list>."),
        ({}, "MACHINE_MEMORIES['default'] is missing. Configured: none."),
        ({"other": {}}, "MACHINE_MEMORIES['default'] is missing. Configured: 'other'."),
        ({"default": None}, "MACHINE_MEMORIES['default'] must be a dict, not None."),
        (
            {"default": {"BACKEND": "nowhere.Memory"}},
            "MACHINE_MEMORIES['default']['BACKEND']: No module named 'nowhere'",
        ),
        *(
            (
                {"default": {"BACKEND": path}},
                f"MACHINE_MEMORIES['default']['BACKEND'] must be a dotted path from the top, not '{path}'.",
            )
            for path in (".Memory", "..Memory")
        ),
        ({"default": {1: 2}}, "MACHINE_MEMORIES['default'] must have keys that are str, not 1."),
        (
            {"default": {"OPTIONS": {1: 2}}},
            "MACHINE_MEMORIES['default']['OPTIONS'] must have keys that are str, not 1.",
        ),
        ({"default": {}, 1: {}}, "MACHINE_MEMORIES must have keys that are str, not 1."),
        (
            {"default": {"BACKEND": 5}},
            "MACHINE_MEMORIES['default']['BACKEND'] must be the dotted path of a memory, not 5.",
        ),
        (
            {"default": {"BACKEND": "datetime.date"}},
            "MACHINE_MEMORIES['default']['BACKEND'] must be the dotted path of a ",
        ),
        ({"default": {"LOCK_TTL": None}}, "MACHINE_MEMORIES['default']: LOCK_TTL must be a number of seconds or a "),
        ({"default": {"LOCK_TTL": 0}}, "MACHINE_MEMORIES['default']: LOCK_TTL must be between 0.01 and 86400 seconds"),
        (
            {"default": {"READ_ATTEMPTS": 0}},
            "MACHINE_MEMORIES['default']: READ_ATTEMPTS must be a positive int, not 0.",
        ),
        (
            {"default": {"READ_BUDGET": float("nan")}},
            "MACHINE_MEMORIES['default']: READ_BUDGET must be a positive float",
        ),
        ({"default": {"MAX_DATA_BYTES": True}}, "MACHINE_MEMORIES['default']: MAX_DATA_BYTES must be a positive int"),
        ({"default": {"MAX_DATA_DEPTH": 101}}, "MACHINE_MEMORIES['default']: MAX_DATA_DEPTH must be a positive int up"),
        ({"default": {"REQUIRE_LEASE": 1}}, "MACHINE_MEMORIES['default']: REQUIRE_LEASE must be a bool, not 1."),
        (
            {"default": {"LOCK_TLL": 5}},
            "MACHINE_MEMORIES['default']: BaseMachineMemory.__init__() got an unexpected keyword ",
        ),
        (
            {"default": {"OPTIONS": {"usin": "x"}}},
            "MACHINE_MEMORIES['default']: BaseMachineMemory.__init__() got",
        ),
        ({"default": {"OPTIONS": ["x"]}}, "MACHINE_MEMORIES['default']['OPTIONS'] must be a dict, not <list>."),
    ],
)
def test_what_is_wrong_in_them_is_named(aliases: Any, message: str) -> None:
    with override_settings(MACHINE_MEMORIES=aliases), pytest.raises(InvalidConfiguration) as refused:
        memories["default"]
    assert str(refused.value).startswith(message)
    assert isinstance(refused.value, ImproperlyConfigured)


@pytest.mark.parametrize("alias", ["a in memory b", "in memory b", " in memory "])
def test_an_alias_that_the_name_of_a_machine_may_end_with_is_refused(alias: str) -> None:
    with override_settings(MACHINE_MEMORIES={"b": {}, alias: {}}):
        with pytest.raises(InvalidConfiguration) as refused:
            memories[alias]
        assert isinstance(memories["b"], DatabaseMachineMemory)
    assert str(refused.value) == (
        f"MACHINE_MEMORIES['{alias}']: an alias must not have 'in memory' before another word: the admin could not tell"
        " its machines from those of other memories."
    )


def test_two_memories_in_process_are_two() -> None:
    one, two = SimpleMachineMemory(), SimpleMachineMemory()
    one.write("a", {})

    assert two.read("a") is None


def test_a_read_budget_may_be_whole_seconds() -> None:
    assert SimpleMachineMemory(read_budget=2, read_attempts=1).read("a") is None


class Nested(SimpleMachineMemory):
    """A memory whose constructor asks for another one."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.other = memories["plain"]


def test_one_may_be_built_while_another_is() -> None:
    nested = f"{__name__}.Nested"
    plain = "machine_memory.backends.simple.SimpleMachineMemory"
    with override_settings(MACHINE_MEMORIES={"nested": {"BACKEND": nested}, "plain": {"BACKEND": plain}}):
        built: Any = in_thread(lambda: memories["nested"]).result()
        assert built.other is memories["plain"]
