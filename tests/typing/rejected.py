"""Misuse, never run: each line that ends in codes is refused for that by mypy and by pyright, and no other line is."""

from dataclasses import dataclass
from typing import TypedDict

from machine_memory import TypedLease, TypedMemory, memory


class Order(TypedDict):
    status: str
    seen: list[str]


@dataclass
class Cart:
    total: int


orders = memory.typed(Order)
carts = memory.typed(Cart, shape=2, upgrades={1: dict})


def of_no_type() -> None:
    memory.typed("Order")  # error: arg-type, reportArgumentType
    memory.typed(Cart, shape="2")  # error: arg-type, reportArgumentType
    memory.typed(Cart, 2)  # error: call-arg, reportCallIssue
    memory.typed(Cart, shape=2, upgrades={"1": dict})  # error: dict-item, reportArgumentType
    memory.typed(Cart, shape=2, upgrades={1: len})  # error: dict-item, reportArgumentType
    wrong: TypedMemory[Order] = carts  # error: assignment, reportAssignmentType
    wrong.read("a")


def read() -> None:
    orders.read("a")["status"]  # error: index, reportOptionalSubscript
    carts.read("a").total  # error: union-attr, reportOptionalMemberAccess
    if order := orders.read("a"):
        order["statsu"]  # error: typeddict-item, reportGeneralTypeIssues
    if record := carts.record("a"):
        record.data.totl  # error: attr-defined, reportAttributeAccessIssue


def write() -> None:
    orders.write("a", {"status": "new"})  # error: typeddict-item, reportArgumentType
    orders.write("a", {"status": "new", "seen": [], "x": 1})  # error: typeddict-unknown-key, reportArgumentType
    orders.write("a", {"status": 1, "seen": []})  # error: typeddict-item, reportArgumentType
    orders.write("a", None)  # error: arg-type, reportArgumentType
    carts.write("a", {"total": 1})  # error: arg-type, reportArgumentType
    carts.write("a", Cart)  # error: arg-type, reportArgumentType
    carts.write("a", Cart(1), version=1)  # error: call-arg, reportCallIssue


def hold() -> None:
    with carts.lease("a") as lease:
        lease.data.total  # error: union-attr, reportOptionalMemberAccess
        lease.commit(lease.data)  # error: arg-type, reportArgumentType
        lease.write({"total": 1})  # error: arg-type, reportArgumentType
        of_an_order(lease)  # error: arg-type, reportArgumentType
        lease.data = Cart(1)  # error: misc, reportAttributeAccessIssue


@memory.lease("report")
def decorated(day: int) -> str:
    return f"report of day {day}"


def call() -> None:
    decorated("today")  # error: arg-type, reportArgumentType


def of_an_order(lease: TypedLease[Order]) -> None:
    lease.commit({"status": "paid"})  # error: typeddict-item, reportArgumentType


def hold_many() -> None:
    with carts.leases(["a"]) as batch:
        batch.commit({"a": {"total": 1}})  # error: dict-item, reportArgumentType
        batch.write([Cart(1)])  # error: arg-type, reportArgumentType
        batch["a"].data.total  # error: union-attr, reportOptionalMemberAccess
    with carts.claim() as due:
        due.commit({lease.id: lease.data for lease in due})  # error: misc, reportArgumentType


async def in_a_task() -> None:
    (await carts.aread("a")).total  # error: union-attr, reportOptionalMemberAccess
    carts.aread("a").total  # error: attr-defined, reportAttributeAccessIssue
    await carts.awrite("a", {"total": 1})  # error: arg-type, reportArgumentType
    async with carts.alease("a") as lease:
        await lease.acommit(None)  # error: arg-type, reportArgumentType
    async with carts.aleases(["a"]) as batch:
        await batch.awrite({"a": 1})  # error: dict-item, reportArgumentType


def without_a_type() -> None:
    memory.write("a", ["status"])  # error: arg-type, reportArgumentType
    memory.write("a", {1: "status"})  # error: dict-item, reportArgumentType
    memory.write("a", Cart(1))  # error: arg-type, reportArgumentType
    memory.read("a")["status"]  # error: index, reportOptionalSubscript
    with memory.lease("a") as lease:
        lease.commit("status")  # error: arg-type, reportArgumentType
    with memory.leases(["a"]) as batch:
        batch.commit({"a": None})  # error: dict-item, reportArgumentType
