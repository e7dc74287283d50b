"""Memories of a test's own: none of those that the settings name is touched, and nothing is left behind."""

import threading
import unittest
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict
from unittest.mock import patch

import django.test
import pytest
from django.conf import settings
from django.test import override_settings

from machine_memory import (
    DatabaseMachineMemory,
    InvalidConfiguration,
    InvalidTTL,
    LockDenied,
    LockLost,
    SimpleMachineMemory,
    memories,
    memory,
)
from machine_memory.core.keeper import keeper
from machine_memory.handler import _Layer, _usual
from machine_memory.testing import Clock, MemoryTestCase, isolated_memories
from tests import servers
from tests.conftest import asynchronous, redis_servers


@pytest.fixture
def clock() -> Iterator[Clock]:
    with isolated_memories() as clock:
        yield clock


class Order(TypedDict):
    n: int


class TestInThisProcess:
    def test_every_alias_is_an_empty_memory_of_its_own(self, clock: Clock) -> None:
        for number, alias in enumerate(memories):
            assert isinstance(memories[alias], SimpleMachineMemory)
            assert memories[alias].read("a") is None
            memories[alias].write("a", {"number": number})
        assert [memories[alias].read("a") for alias in memories] == [{"number": n} for n in range(len(list(memories)))]
        assert repr(memory) == "<SimpleMachineMemory 'default' in this process>"

    def test_nothing_is_left_for_the_next_test(self) -> None:
        with isolated_memories():
            memory.write("a", {})
            with isolated_memories():
                assert memory.read("a") is None
            assert memory.read("a") == {}
        with isolated_memories():
            assert memory.read("a") is None

    def test_it_has_the_options_that_every_memory_has(self) -> None:
        named = {"LOCK_TTL": 7, "REQUIRE_LEASE": True, "OPTIONS": {"using": "elsewhere"}}
        with override_settings(MACHINE_MEMORIES={"default": named}), isolated_memories():
            assert (memory.lock_ttl, memory.require_lease) == (7, True)

    def test_machines_outlive_a_change_of_the_settings(self, clock: Clock) -> None:
        memory.write("a", {"n": 1})
        with override_settings(MACHINE_MEMORIES={"default": {"LOCK_TTL": 7}}):
            assert (memory.read("a"), memory.lock_ttl) == ({"n": 1}, 7)
        assert (memory.read("a"), memory.lock_ttl) == ({"n": 1}, 120)

    def test_an_alias_that_is_missing_is_missing_here_too(self, clock: Clock) -> None:
        with pytest.raises(InvalidConfiguration, match=r"MACHINE_MEMORIES\['far'\] is missing"):
            memories["far"]

    def test_what_is_held_at_the_end_is_forgotten(self) -> None:
        outer = SimpleMachineMemory()
        outer.lock("a")
        with isolated_memories():
            assert outer.lock("a") is False
            memory.lock("a")
            block = memory.lease("b", keep_alive=True)
            lease = block.__enter__()
            assert lease in keeper._kept
        assert lease not in keeper._kept
        assert outer.write("a", {}) == 1
        assert outer.unlock("a") is True

    def test_typed_memories_are_of_the_test_as_well(self, clock: Clock) -> None:
        orders = memory.typed(Order)
        orders.write("a", Order(n=1))
        assert memory.read("a") == {"n": 1}

    def test_what_was_decorated_before_holds_what_is_of_the_test(self) -> None:
        orders, holders = memory.typed(Order), []

        def call() -> None:
            holders.append(memory.holder("a"))
            with pytest.raises(LockDenied):
                decorated()

        decorated: Callable[[], None] = memory.lease("a")(call)
        held_by_type: Callable[[], None] = orders.lease("a")(call)
        held_by_alias: Callable[[], None] = memories["simple"].lease("a")(lambda: holders.append(memory.holder("a")))
        for _ in range(2):
            with isolated_memories():
                for held in (decorated, held_by_type, held_by_alias):
                    held()
                assert memory.holder("a") is None
        assert [holder is not None for holder in holders] == [True, True, False] * 2

    @asynchronous
    async def test_what_is_a_coroutine_function_does_so_too(self) -> None:
        @memory.alease("a")
        async def decorated() -> bool:
            return await memory.alock("a")

        with isolated_memories():
            assert await decorated() is False
            assert await memory.alock("a") is True


class TestClock:
    def test_it_stands_still_until_it_is_moved(self, clock: Clock) -> None:
        assert abs(datetime.now(UTC) - clock.now) < timedelta(minutes=2)
        with memory.lease("a", ttl=30) as lease:
            assert lease.remaining == 30
            clock.advance(10)
            assert lease.remaining == 20
            clock.advance(timedelta(seconds=20))
            assert lease.remaining == 0
            with pytest.raises(LockLost, match="The lease of 'a' is over"):
                lease.commit({})

    def test_timers_go_by_it(self, clock: Clock) -> None:
        memory.write("a", {}, wake_at=timedelta(days=3))
        memory.write("b", {}, wake_at=clock.now + timedelta(days=4))
        for due, days in [([], 3), (["a"], 1), (["b"], 0)]:
            with memory.claim() as batch:
                assert [lease.id for lease in batch] == due
                batch.commit({id: {} for id in due})
            clock.advance(timedelta(days=days))

    def test_it_never_goes_back(self, clock: Clock) -> None:
        with pytest.raises(InvalidTTL, match="by must be between 0 and"):
            clock.advance(-1)

    def test_a_renewal_counts_from_where_it_is(self, clock: Clock) -> None:
        with memory.lease("a", ttl=30) as lease, memory.leases(["b"], ttl=30) as batch:
            clock.advance(10)
            lease.renew()
            batch.renew(60)
            assert (lease.remaining, batch.remaining) == (30, 60)


class TestOwnBackends:
    @pytest.mark.django_db
    def test_a_database_is_that_of_the_tests(self) -> None:
        with isolated_memories(own=["default"]):
            assert isinstance(memory._connections[memory._alias], DatabaseMachineMemory)  # type: ignore[attr-defined]
            assert isinstance(memories["simple"], SimpleMachineMemory)
            memory.write("a", {})
        assert DatabaseMachineMemory().read("a") == {}

    @pytest.mark.parametrize("redis_store", redis_servers("redis", "redis cluster"), indirect=True)
    def test_in_redis_there_are_keys_that_nobody_else_has_and_that_are_gone_at_the_end(self, redis_store: Any) -> None:
        redis_store.memory.write("a", {"by": "production"})
        redis_store.memory.lock("b")
        before = sorted(redis_store._keys())
        with isolated_memories(own=True):
            own = memories[redis_store.alias]
            assert own.read("a") is None
            own.write("a", {"by": "test"}, wake_at=timedelta(0))
            assert own.lock("b") is True
            assert redis_store.memory.read("a") == {"by": "production"}
            assert len(redis_store._keys()) > len(before)
        assert sorted(redis_store._keys()) == before

    def test_what_cannot_be_kept_apart_is_refused(self) -> None:
        far = {"BACKEND": f"{SimpleMachineMemory.__module__}.SimpleMachineMemory"}
        refused = pytest.raises(InvalidConfiguration, match=r"MACHINE_MEMORIES\['far'\]: a test cannot have its own")
        with override_settings(MACHINE_MEMORIES={"far": far}), isolated_memories(own=True), refused:
            memories["far"]

    def test_one_alias_is_a_list_of_one(self) -> None:
        with pytest.raises(InvalidConfiguration, match=r"own must be True, or a list of aliases: \['default'\]"):
            isolated_memories(own="default").__enter__()


class TestDjangosRunner:
    """Without any of it: what its test environment alone changes."""

    @pytest.fixture(autouse=True)
    def _as_usual(self) -> Iterator[None]:
        with memories.built_by(_usual):
            yield

    @pytest.mark.skipif("redis" in servers.missing, reason=str(servers.missing.get("redis")))
    def test_redis_is_not_touched(self, monkeypatch: pytest.MonkeyPatch) -> None:
        alias = servers.REDIS["redis"]
        assert repr(memories[alias]) == f"<SimpleMachineMemory {alias!r} in this process>"
        monkeypatch.delattr("django.test.utils._TestState.saved_data")
        assert repr(memories[alias]) == f"<RedisMachineMemory {alias!r} in cache {alias!r}>"

    def test_a_database_is_that_of_the_tests(self) -> None:
        assert repr(memories["default"]) == "<DatabaseMachineMemory 'default' in database 'default'>"

    def test_a_memory_in_this_process_is_as_the_settings_say(self) -> None:
        named = {**settings.MACHINE_MEMORIES["simple"], "OPTIONS": {"clock": lambda: 0.0}}
        with override_settings(MACHINE_MEMORIES={"simple": named}):
            memories["simple"].write("a", {})
            record = memories["simple"].record("a")
            assert record and record.written_at == datetime(1970, 1, 1, tzinfo=UTC)


def ran(case: type[unittest.TestCase]) -> unittest.TestResult:
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
    assert result.testsRun
    return result


class TestCases:
    @pytest.mark.parametrize("order", [0, 1])
    @pytest.mark.parametrize("kind", [unittest.TestCase, django.test.SimpleTestCase])
    def test_each_test_has_memories_of_its_own(self, kind: type[unittest.TestCase], order: int) -> None:
        bases = (MemoryTestCase, kind)[:: 1 if order or kind is unittest.TestCase else -1]

        def setup(case: Any) -> None:
            memory.write("a", {"from": "setUp"})

        def test(case: Any) -> None:
            assert memory.write("a", {}) == 2
            with memory.lease("a", ttl=30) as lease:
                case.memory_clock.advance(31)
                with pytest.raises(LockLost):
                    lease.commit({})

        async def coroutine(case: Any) -> None:
            assert await memory.awrite("a", {}) == 2

        names: dict[str, Any] = {"setUp": setup, "test_a": test, "test_b": test}
        if kind is not unittest.TestCase:
            names["test_c"] = coroutine
        result = ran(type("Case", bases, names))
        assert (result.errors, result.failures) == ([], [])

    def test_a_lease_is_kept_alive_there(self) -> None:
        class Case(MemoryTestCase):
            def test_it(self) -> None:
                renewed, renew_each = threading.Event(), memory.store.renew_each

                def renewing(leases: Any) -> Any:
                    renewed.set()
                    return renew_each(leases)

                patched = patch.object(memory.store, "renew_each", renewing)
                with patched, memory.lease("a", ttl=0.03, keep_alive=True) as lease:
                    assert renewed.wait(30)
                    lease.commit({})

        assert ran(Case).wasSuccessful()


def test_layers_come_and_go_in_any_order() -> None:
    def build(alias: str) -> Any:
        return SimpleMachineMemory()

    before = [*memories._layers]
    first, second = memories.built_by(build), memories.built_by(build)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert memories._layers == before
    assert isinstance(before[0], _Layer)


def test_the_end_of_one_that_is_just_as_another_leaves_the_other() -> None:
    with memories.built_by(_usual):
        outer = memories._layers[-1]
        with memories.built_by(_usual):
            pass
        assert memories._layers[-1] is outer
