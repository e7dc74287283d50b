"""Shapes: the form that states have by a number, and the upgrades from those that they had before."""

from dataclasses import dataclass
from typing import Any, TypedDict

import pytest

from machine_memory import (
    InvalidConfiguration,
    InvalidData,
    NewerShape,
    SimpleMachineMemory,
    TypedMemory,
    WrongShape,
)
from tests.conftest import asynchronous, databases
from tests.contract.stores import Store

few_stores = pytest.mark.parametrize("store", ["simple", *databases("sqlite", forms=("",))], indirect=True)


class Order(TypedDict):
    status: str
    total: int
    currency: str


def in_cents(state: dict[str, Any]) -> dict[str, Any]:
    return {**state, "total": state.pop("total") * 100}


def with_currency(state: dict[str, Any]) -> dict[str, Any]:
    return {**state, "currency": "NOK"}


UPGRADES = {1: in_cents, 2: with_currency}
FIRST = {"status": "new", "total": 3}
THIRD = Order(status="new", total=300, currency="NOK")


def of_shape_3(store: Store) -> TypedMemory[Order]:
    return store.memory.typed(Order, shape=3, upgrades=UPGRADES)


@few_stores
class TestInFlight:
    @pytest.mark.parametrize(
        "stored", [FIRST, {"shape": 1, **FIRST}, {"shape": 2, **FIRST, "total": 300}, {"shape": 3, **THIRD}]
    )
    def test_a_state_is_read_in_its_present_shape_and_stored_so_with_the_next_write(
        self, store: Store, stored: dict[str, Any]
    ) -> None:
        orders = of_shape_3(store)
        store.memory.write("a", stored)

        assert orders.read("a") == THIRD
        with orders.lease("a") as lease:
            assert lease.data == THIRD
            assert store.memory.read("a") == stored
            lease.write(lease.data)
            assert store.memory.read("a") == {"shape": 3, **THIRD}
            assert lease.data == THIRD
        record = orders.record("a")
        assert record is not None and (record.data, record.version) == (THIRD, 2)

    def test_of_many_each_is_upgraded_from_where_it_is(self, store: Store) -> None:
        store.memory.write("a", FIRST)
        store.memory.write("b", {"shape": 2, **FIRST})
        with of_shape_3(store).leases(["a", "b", "c"]) as batch:
            assert {lease.id: lease.data and lease.data["total"] for lease in batch} == {"a": 300, "b": 3, "c": None}

    def test_a_newer_one_is_left_to_newer_code_and_leaves_no_lease(self, store: Store) -> None:
        orders = of_shape_3(store)
        store.memory.write("a", {"shape": 4, "anything": 1})
        with pytest.raises(NewerShape) as refused, orders.lease("a"):
            pass
        assert str(refused.value) == (
            "The state of 'a' has shape 4, and this code knows Order up to 3: newer code wrote it. Leave the machine to"
            " a worker that runs it, and replace this one."
        )
        assert store.lease_of("a") is None
        with orders.leases(["a", "b"]) as batch:
            assert [lease.id for lease in batch] == ["b"]
            assert isinstance(batch.refused["a"], NewerShape)

    @asynchronous
    async def test_for_a_task_it_is_the_same(self, store: Store) -> None:
        orders = of_shape_3(store)
        await store.memory.awrite("a", FIRST)
        async with orders.alease("a") as lease:
            assert lease.data == THIRD
            await lease.acommit(lease.data)
        assert await orders.aread("a") == THIRD
        await store.memory.awrite("a", {"shape": 4})
        with pytest.raises(NewerShape):
            async with orders.alease("a"):
                pass
        assert await store.in_thread(store.lease_of, "a") is None

    def test_an_upgrade_that_raises_is_told_and_leaves_no_lease(self, store: Store) -> None:
        orders = store.memory.typed(Order, shape=2, upgrades={1: in_cents})
        store.memory.write("a", {"status": "a secret"})
        with pytest.raises(WrongShape) as refused, orders.lease("a"):
            pass
        assert str(refused.value) == (
            "The upgrade of 'a' from shape 1 to 2 of Order raised KeyError. What is stored has not changed."
        )
        assert isinstance(refused.value.__cause__, KeyError)
        assert store.lease_of("a") is None


@dataclass
class Cart:
    total: int = 0


class TestNumbers:
    @pytest.mark.parametrize(
        ("state", "reason"),
        [
            ({"shape": "a secret"}, "has no number of a shape: data['shape'] must be an int from 1 on, and is str."),
            ({"shape": True}, "data['shape'] must be an int from 1 on, and is bool."),
            ({"shape": 0}, "data['shape'] must be an int from 1 on, and is int."),
            ({"shape": None}, "data['shape'] must be an int from 1 on, and is null."),
            ({"shape": 1}, "has shape 1, and this code upgrades Cart from 2 on alone"),
            ({}, "has shape 1, and this code upgrades Cart from 2 on alone"),
        ],
    )
    def test_what_cannot_be_upgraded_is_not_guessed_at(self, state: dict[str, Any], reason: str) -> None:
        memory = SimpleMachineMemory()
        memory.write("a", state)
        with pytest.raises(WrongShape) as refused:
            memory.typed(Cart, shape=3, upgrades={2: dict}).read("a")
        assert reason in str(refused.value)
        assert "secret" not in str(refused.value)
        assert type(refused.value) is WrongShape

    @pytest.mark.parametrize("result", [None, 1, "text", [1]])
    def test_an_upgrade_that_returns_no_state_is_refused(self, result: Any) -> None:
        memory = SimpleMachineMemory()
        memory.write("a", {})
        with pytest.raises(WrongShape, match="The upgrade of 'a' from shape 1 to 2 of Cart raised"):
            memory.typed(Cart, shape=2, upgrades={1: lambda state: result}).read("a")

    def test_the_key_of_the_number_can_be_named(self) -> None:
        memory = SimpleMachineMemory()
        carts = memory.typed(Cart, shape=2, upgrades={1: lambda state: {"total": state["sum"]}}, shape_key="$shape")
        memory.write("a", {"sum": 3})
        carts.write("b", carts.read("a") or Cart())

        assert memory.read("b") == {"$shape": 2, "total": 3}
        assert carts.read("b") == Cart(3)

    def test_where_the_state_has_that_key_itself_it_is_not_written(self) -> None:
        @dataclass
        class Box:
            shape: str

        memory = SimpleMachineMemory()
        with pytest.raises(InvalidData, match="data has the key 'shape', where the number .* another shape_key"):
            memory.typed(Box, shape=1).write("a", Box("round"))
        memory.typed(Box, shape=1, shape_key="v").write("a", Box("round"))
        assert memory.read("a") == {"v": 1, "shape": "round"}

    def test_without_a_shape_no_number_is_kept(self) -> None:
        memory = SimpleMachineMemory()
        memory.typed(Cart).write("a", Cart(1))
        assert memory.read("a") == {"total": 1}
        assert memory.typed(Cart, shape=1).read("a") == Cart(1)
        memory.typed(Cart, shape=1).write("a", Cart(2))
        with pytest.raises(WrongShape, match="data has 'shape', which Cart does not know"):
            memory.typed(Cart).read("a")

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            ({"shape": 0}, "shape must be a positive int, not 0."),
            ({"shape": True}, "shape must be a positive int, not True."),
            ({"shape": "2"}, "shape must be a positive int, not '2'."),
            ({"shape": 3, "upgrades": {1: dict}}, "upgrades of Cart must lead to its shape (3) step by step"),
            ({"shape": 3, "upgrades": {2: dict, 3: dict}}, "; these are for 2, 3."),
            ({"shape": 2, "upgrades": {0: dict, 1: dict}}, "; these are for 0, 1."),
            ({"shape": 3, "upgrades": {1: dict, "2": dict}}, "; these are for 1, '2'."),
            ({"shape": 2, "shape_key": ""}, "shape_key must be a str and not empty, not ''."),
            ({"upgrades": {1: dict}}, "upgrades of Cart must lead to its shape (None)"),
        ],
    )
    def test_what_is_declared_wrongly_is_refused_before_anything_is_read(
        self, options: dict[str, Any], reason: str
    ) -> None:
        with pytest.raises(InvalidConfiguration) as refused:
            SimpleMachineMemory().typed(Cart, **options)
        assert reason in str(refused.value)
