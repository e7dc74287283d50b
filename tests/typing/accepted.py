# pyright: strict
"""How states of a type are used; never run, and accepted by type checkers at their strictest."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from types import MappingProxyType
from typing import Any, TypedDict, assert_type

from msgspec import Struct
from pydantic import BaseModel

from machine_memory import (
    Lease,
    Record,
    SimpleMachineMemory,
    TypedBatch,
    TypedLease,
    TypedMemory,
    memories,
    memory,
)


class Order(TypedDict):
    status: str
    seen: list[str]


@dataclass(frozen=True)
class Cart:
    total: int = 0
    note: str | None = None


class Approval(BaseModel):
    by: str


class Step(Struct):
    number: int


orders = memory.typed(Order)
carts = memories["fast"].typed(Cart, shape=2, upgrades={1: lambda state: {**state, "note": None}}, shape_key="v")
approvals = SimpleMachineMemory().typed(Approval)
steps: TypedMemory[Step] = memory.typed(Step)


def a_typed_dict() -> None:
    assert_type(orders.read("a"), Order | None)
    orders.write("a", {"status": "new", "seen": []}, expected_version=0)
    with orders.lease("a", ttl=30) as lease:
        assert_type(lease, TypedLease[Order])
        order: Order = lease.data or {"status": "new", "seen": []}
        order["seen"].append("event")
        assert_type(lease.write(order), int)
        lease.commit({**order, "status": "paid"}, wake_at=timedelta(hours=1))


def a_dataclass() -> None:
    with carts.lease("a") as lease:
        lease.commit(replace(lease.data or Cart(), total=1))
    if record := carts.record("a"):
        assert_type(record, Record[Cart])
        assert_type(record.data.total, int)
    with carts.leases(found.id for found in carts.find()) as batch:
        assert_type(batch, TypedBatch[Cart])
        batch.commit({lease.id: advanced(lease) for lease in batch})
    with carts.claim(10) as due:
        for lease in due:
            lease.commit(advanced(lease), wake_at=None)
    with carts.attach("text") as lease:
        assert_type(lease.data, Cart | None)


def advanced(lease: TypedLease[Cart]) -> Cart:
    return lease.data or Cart()


async def models() -> None:
    assert_type(await approvals.aread("a"), Approval | None)
    assert_type(await steps.arecord("a"), Record[Step] | None)
    await approvals.awrite("a", Approval(by="me"), expected_version=1)
    async with steps.alease("a") as lease:
        assert_type(lease.data, Step | None)
        await lease.awrite(Step(1))
        await lease.acommit(Step(2))
    async with steps.aleases(["a", "b"]) as batch:
        await batch.acommit({lease.id: Step(lease.data.number + 1) for lease in batch if lease.data})
    async with approvals.aclaim() as due:
        assert_type(due["a"].data, Approval | None)
    async with approvals.aattach("text") as attached:
        await attached.acommit(Approval(by="me"))
    async for found in approvals.afind(status="waiting"):
        assert_type(found.id, str)


@memory.lease("report", ttl=60)
def decorated(day: int) -> str:
    return f"report of day {day}"


@carts.alease("report")
async def decorated_too(day: int) -> str:
    return decorated(day)


async def functions_that_hold() -> None:
    assert_type(decorated(1), str)
    assert_type(await decorated_too(1), str)


def without_a_type(state: Mapping[str, Any], order: Order) -> None:
    assert_type(memory.read("a"), dict[str, Any] | None)
    memory.write("a", {"status": "new"})
    memory.write("a", state)
    memory.write("a", MappingProxyType({"status": "new"}))
    memory.write("a", order)
    with memory.lease("a") as lease:
        lease.commit({**lease.data, "status": "paid"})


def of_any_type(lease: Lease) -> None:
    lease.release()


def uses() -> None:
    with orders.lease("a") as lease, memory.lease("b") as other:
        of_any_type(lease)
        of_any_type(other)
