"""States of a type of the caller's: what they are read as, what is refused, and what leaves no lease behind."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, Flag, IntEnum
from types import MappingProxyType
from typing import Any, Literal, NewType, NotRequired, Required, TypedDict
from uuid import UUID

import msgspec
import pydantic
import pytest
import typing_extensions
from django.test import override_settings

from machine_memory import (
    CommitRefused,
    CorruptRecord,
    InvalidConfiguration,
    InvalidData,
    MachineMemoryError,
    Metadata,
    SimpleMachineMemory,
    WrongShape,
    memories,
    memory,
)
from tests.conftest import Worker, asynchronous, databases, redis_servers
from tests.contract.stores import Store

few_stores = pytest.mark.parametrize("store", ["simple", *databases("sqlite", forms=("",))], indirect=True)
each_store = pytest.mark.parametrize("store", ["simple", *databases(), *redis_servers()[:1]], indirect=True)


class OrderDict(TypedDict):
    status: str
    total: int
    note: NotRequired[str]


@dataclass
class OrderClass:
    status: str
    total: int
    note: str | None = None


class OrderModel(pydantic.BaseModel):
    status: str
    total: int
    note: str | None = None


class OrderStruct(msgspec.Struct):
    status: str
    total: int
    note: str | None = None


STATE = {"status": "new", "total": 3, "note": "fragile"}
ORDERS: dict[Any, Any] = {
    OrderDict: {"status": "new", "total": 3, "note": "fragile"},
    OrderClass: OrderClass("new", 3, "fragile"),
    OrderModel: OrderModel(status="new", total=3, note="fragile"),
    OrderStruct: OrderStruct("new", 3, "fragile"),
}
kinds = pytest.mark.parametrize("kind", ORDERS, ids=lambda kind: kind.__name__)


class TestEachKind:
    @kinds
    @few_stores
    def test_a_state_is_what_was_written_and_is_stored_as_plain_json(self, store: Store, kind: Any) -> None:
        orders, order = store.memory.typed(kind), ORDERS[kind]

        assert orders.read("a") is None
        assert orders.record("a") is None
        assert orders.write("a", order, expected_version=0) == 1
        assert orders.read("a") == order
        assert store.memory.read("a") == STATE
        record = orders.record("a")
        assert record is not None
        assert (record.data, record.status, record.version) == (order, "new", 1)
        assert [found.id for found in orders.find(status="new")] == ["a"]

    @kinds
    @few_stores
    def test_a_lease_shows_it_and_takes_it(self, store: Store, kind: Any) -> None:
        orders, order = store.memory.typed(kind), ORDERS[kind]
        with orders.lease("a") as lease:
            assert lease.data is None
            lease.write(order, metadata=Metadata(source="here"))
            assert lease.data == order
            assert lease.data is not order
            lease.commit(order)
        with orders.leases(["a", "b"]) as batch:
            assert [lease.data for lease in batch] == [order, None]
            batch.commit({"b": order}, wake_at=timedelta(0))
        with orders.claim() as due:
            assert [(lease.id, lease.data) for lease in due] == [("b", order)]
            text = due["b"].detach()
        with orders.attach(text) as lease:
            assert lease.data == order
            lease.commit(order)
        assert [info.id for info in orders.held_locks()] == []

    @kinds
    @few_stores
    @asynchronous
    async def test_for_a_task_it_is_the_same(self, store: Store, kind: Any) -> None:
        orders, order = store.memory.typed(kind), ORDERS[kind]

        assert await orders.awrite("a", order, wake_at=timedelta(0)) == 1
        assert await orders.aread("a") == order
        record = await orders.arecord("a")
        assert record is not None and record.data == order
        async with orders.aclaim() as due:
            assert [lease.data for lease in due] == [order]
            await due.acommit({"a": order})
        async with orders.aleases(["a", "b"]) as batch:
            await batch.awrite({"a": order, "b": order})
            text = batch["a"].detach()
        async with orders.aattach(text) as lease:
            assert lease.data == order
            await lease.arelease()
        async with orders.alease("b") as lease:
            assert lease.data == order
            await lease.awrite(order)
            await lease.acommit(order)
        assert [found.version async for found in orders.afind()] == [3, 3]

    @kinds
    @few_stores
    def test_a_state_that_does_not_fit_is_told_by_machine_and_field_and_leaves_no_lease(
        self, store: Store, kind: Any
    ) -> None:
        orders = store.memory.typed(kind)
        store.memory.write("a", {**STATE, "total": "a secret"})
        looks: list[Any] = [orders.read, orders.record, lambda id: orders.lease(id).__enter__()]
        for look in looks:
            with pytest.raises(WrongShape) as refused:
                look("a")
            message = str(refused.value)
            assert message.startswith(f"The state of 'a' does not fit {kind.__name__}: data")
            assert "total" in message and "secret" not in message
            assert "secret" not in repr((refused.value.__cause__, refused.value.__suppress_context__))
        assert store.lease_of("a") is None
        with orders.lease("b") as lease:
            assert lease.data is None

    @kinds
    @few_stores
    def test_of_many_it_is_refused_alone(self, store: Store, kind: Any) -> None:
        orders, order = store.memory.typed(kind), ORDERS[kind]
        store.memory.write("a", {"status": "new"}, wake_at=timedelta(0))
        orders.write("b", order, wake_at=timedelta(0))
        for block in (orders.leases(["a", "b"]), orders.claim()):
            with block as batch:
                assert [lease.data for lease in batch] == [order]
                assert isinstance(batch.refused["a"], WrongShape)
                batch.write({"b": order}, wake_at=timedelta(0))
            store.wait_until(lambda: store.lease_of("a") is None)

    @kinds
    @few_stores
    def test_what_would_not_be_read_back_is_not_written(self, store: Store, kind: Any) -> None:
        orders, order = store.memory.typed(kind), ORDERS[kind]
        new = OrderModel.model_construct if kind is OrderModel else kind  # A model checks what it is made of.
        wrong: Any = new(status="new", total="x")
        with store.untouched("a"):
            for data in (wrong, None, [STATE], object(), {"status": "new"}):
                with pytest.raises(InvalidData, match=r"^data.*Nothing was changed\.$"):
                    orders.write("a", data)
        with orders.leases(["a", "b"]) as batch, pytest.raises(CommitRefused) as refused:
            batch.commit({"a": wrong, "b": order})
        assert isinstance(refused.value.exceptions[0], InvalidData)
        assert (store.memory.read("a"), store.memory.read("b")) == (None, STATE)

    @pytest.mark.parametrize("kind", [OrderClass, OrderModel, OrderStruct], ids=lambda kind: kind.__name__)
    def test_what_inherits_from_it_is_refused_as_a_part_would_be_lost(self, kind: Any) -> None:
        special = type("Special", (kind,), {"__annotations__": {}})

        with pytest.raises(InvalidData, match=f"^data must be {kind.__name__}, and is Special"):
            SimpleMachineMemory().typed(kind).write("a", special(status="new", total=1))


class Status(Enum):
    NEW = "new"
    PAID = "paid"


class Level(IntEnum):
    LOW = 1


class Right(Flag):
    READ = 1
    WRITE = 2


Code = NewType("Code", str)
Sku = NewType("Sku", Code)


class Address(TypedDict, total=False):
    city: Required[str]
    zip: str


class TheirAddress(typing_extensions.TypedDict):
    city: str


@dataclass(frozen=True)
class Line:
    sku: Sku
    price: Decimal
    parts: "tuple[Line, ...]" = ()


@dataclass
class Card:
    number: str
    kind: Literal["card"] = "card"


@dataclass
class Bill:
    number: str
    kind: Literal["bill"] = "bill"


@dataclass
class Everything:
    text: str = "é"
    number: int = 2**70
    ratio: float = 0.1
    whole: float = 1
    yes: bool = True
    nothing: None = None
    maybe: int | None = None
    status: Status = Status.PAID
    level: Level = Level.LOW
    right: Right = Right.READ
    one: Literal["a", 1, True] = 1
    due: datetime = datetime(2030, 1, 1, tzinfo=UTC)
    day: date = date(2030, 1, 1)
    price: Decimal = Decimal("1.10")
    key: UUID = UUID(int=1)  # noqa: RUF009  # It never changes.
    lines: list[Line] = field(
        default_factory=lambda: [Line(Sku(Code("a")), Decimal(1), (Line(Sku(Code("b")), Decimal(2)),))]
    )
    by_day: dict[str, list[int]] = field(default_factory=lambda: {"mon": [1]})
    others: Mapping[str, Any] = field(default_factory=lambda: {"any": [None, {"thing": 1}]})
    address: Address = field(default_factory=lambda: Address(city="Oslo"))
    theirs: TheirAddress = field(default_factory=lambda: TheirAddress(city="Rome"))
    payment: Card | Bill = field(default_factory=lambda: Bill("7"))
    model: OrderModel = field(default_factory=lambda: OrderModel(status="new", total=1))
    struct: OrderStruct = field(default_factory=lambda: OrderStruct("new", 1))
    bare: list = field(default_factory=lambda: [1, "a"])  # type: ignore[type-arg]
    counted: int = field(init=False, default=0)


everything = SimpleMachineMemory().typed(Everything)


class TestDataclasses:
    def test_what_they_are_made_of_comes_back_as_it_was(self) -> None:
        everything.write("a", Everything())

        assert everything.read("a") == Everything()
        stored = SimpleMachineMemory.read(everything._of(None), "a") or {}
        assert (stored["due"], stored["price"], stored["status"]) == ("2030-01-01T00:00:00+00:00", "1.10", "paid")
        assert "counted" not in stored

    def test_a_key_that_is_absent_has_its_default(self) -> None:
        everything._of(None).write("b", {"text": "only"})

        assert everything.read("b") == Everything(text="only")

    @pytest.mark.parametrize(
        ("state", "reason"),
        [
            ({"number": True}, "data['number'] must be int, and is bool"),
            ({"number": None}, "data['number'] must be int, and is null"),
            ({"ratio": "0.1"}, "data['ratio'] must be float, and is str"),
            ({"maybe": "1"}, "data['maybe'] must be int, and is str"),
            ({"status": "lost"}, "data['status'] must be a value of Status, and is str."),
            ({"level": True}, "data['level'] must be a value of Level, and is bool."),
            ({"one": []}, "data['one'] must be one of 'a', 1, True"),
            ({"due": "soon"}, "data['due'] must be datetime as text, and is another text"),
            ({"due": 1}, "data['due'] must be datetime as text, and is int"),
            ({"price": "much"}, "data['price'] must be Decimal as text, and is another text"),
            ({"lines": {}}, "data['lines'] must be a list, and is dict"),
            ({"lines": [1]}, "data['lines'][0] must be an object, and is int"),
            ({"lines": [{"sku": "a"}]}, "data['lines'][0] lacks 'price'"),
            ({"by_day": []}, "data['by_day'] must be an object, and is list"),
            ({"by_day": {"mon": [1, "2"]}}, "data['by_day']['mon'][1] must be int, and is str"),
            ({"address": {}}, "data['address'] lacks 'city'"),
            ({"address": {"city": "Oslo", "zip": 1}}, "data['address']['zip'] must be str, and is int"),
            ({"payment": {"number": "1", "kind": "cash"}}, "data['payment']['kind'] must be one of 'card'"),
            ({"model": {"status": "new"}}, "data['model']['total'] is refused by OrderModel: missing"),
            ({"model": {}}, "data['model']['status'] is refused by OrderModel: missing, and 1 more"),
            ({"struct": {}}, "data['struct'] is refused by OrderStruct: Object missing required field `status`"),
            ({"else": 1}, "data has 'else', which Everything does not know"),
            ({"x" * 100: 1}, f"data has '{'x' * 64}'…, which Everything does not know"),
        ],
    )
    def test_the_way_to_what_does_not_fit_is_told(self, state: dict[str, Any], reason: str) -> None:
        everything._of(None).write("c", state)

        with pytest.raises(WrongShape) as refused:
            everything.read("c")
        assert reason in str(refused.value)

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"day": datetime(2030, 1, 1, tzinfo=UTC)}, "data['day'] must be date, and is datetime"),
            ({"lines": (1,)}, "data['lines'] must be a list, and is tuple"),
            ({"lines": [{"sku": "a", "price": Decimal(1)}]}, "data['lines'][0] must be Line, and is dict"),
            ({"status": "paid"}, "data['status'] must be a member of Status, and is str"),
            ({"others": {"any": Decimal(1)}}, "data['others']['any'] is a Decimal, which JSON does not have"),
            ({"by_day": {1: []}}, "data['by_day'] has a key that is not a str: 1"),
            ({"right": Right.READ | Right.WRITE}, "data['right'] must be a member of Right, and is Right"),
            ({"address": []}, "data['address'] must be Address, and is list"),
            ({"ratio": math.inf}, "data['ratio'] is inf, which JSON does not have"),
        ],
    )
    def test_so_it_is_where_it_is_written(self, change: dict[str, Any], reason: str) -> None:
        with pytest.raises(InvalidData) as refused:
            everything.write("d", Everything(**change))
        assert reason in str(refused.value)
        assert everything.read("d") is None

    def test_what_it_refuses_itself_does_not_fit(self) -> None:
        @dataclass
        class Positive:
            total: int

            def __post_init__(self) -> None:
                if self.total < 0:
                    raise KeyError("secret")

        memory = SimpleMachineMemory()
        memory.write("a", {"total": -1})
        with pytest.raises(WrongShape, match=r"data is refused by Positive \(KeyError\)") as refused:
            memory.typed(Positive).read("a")
        assert isinstance(refused.value.__cause__, KeyError)

    def test_a_union_that_would_be_read_back_as_another_type_is_refused(self) -> None:
        @dataclass
        class Ambiguous:
            when: str | datetime

        memory = SimpleMachineMemory().typed(Ambiguous)
        memory.write("a", Ambiguous("soon"))
        with pytest.raises(InvalidData, match=r"data\['when'\] is a datetime, and another type of its union"):
            memory.write("a", Ambiguous(datetime(2030, 1, 1, tzinfo=UTC)))

    @pytest.mark.parametrize("hint", [bytes, timedelta, set[str], dict[int, str], tuple[int, str], complex, object()])
    def test_a_type_that_is_not_converted_is_refused_before_anything_is_read(self, hint: Any) -> None:
        kind: Any = dataclass(type("Order", (), {"__annotations__": {"field": hint}}))
        with pytest.raises(InvalidConfiguration, match=r"^(Order\.field is .* not converted here|The annotations of)"):
            SimpleMachineMemory().typed(kind)

    def test_so_is_an_annotation_that_names_nothing(self) -> None:
        @dataclass
        class Order:
            line: "Nowhere"  # type: ignore[name-defined]  # noqa: F821

        with pytest.raises(InvalidConfiguration, match="The annotations of Order cannot be resolved"):
            SimpleMachineMemory().typed(Order)

    @pytest.mark.parametrize("kind", [dict, int, "Order", list[int], Status, dict[str, int]])
    def test_so_is_what_is_no_type_of_a_state(self, kind: Any) -> None:
        with pytest.raises(InvalidConfiguration, match="^A state is a TypedDict, a dataclass, a pydantic model or"):
            SimpleMachineMemory().typed(kind)


class TestTypedDicts:
    def test_keys_that_are_not_named_are_kept(self) -> None:
        memory = SimpleMachineMemory()
        memory.write("a", {"status": "new", "total": 1, "more": [1]})
        with memory.typed(OrderDict).lease("a") as lease:
            assert lease.data is not None
            lease.commit({**lease.data, "total": 2})
        assert memory.read("a") == {"status": "new", "total": 2, "more": [1]}

    def test_what_may_be_absent_is_known_from_annotations_that_are_text(self) -> None:
        class Late(TypedDict):
            status: "str"
            note: "NotRequired[str]"

        memory = SimpleMachineMemory().typed(Late)
        memory.write("a", {"status": "new"})
        assert memory.read("a") == {"status": "new"}
        with pytest.raises(InvalidData, match="^data lacks 'status'"):
            memory.write("a", {"note": "x"})  # type: ignore[typeddict-item]


class CardModel(pydantic.BaseModel):
    kind: Literal["card"]


class BillModel(pydantic.BaseModel):
    kind: Literal["bill"]


class CheckedModel(pydantic.BaseModel):
    status: Status = Status.NEW
    code: str = "a"
    key: UUID = UUID(int=1)
    payment: CardModel | BillModel | None = pydantic.Field(None, discriminator="kind")

    @pydantic.field_validator("code")
    @classmethod
    def check(cls, code: str) -> str:
        if code != "a":
            raise ValueError(f"{code} is unknown")
        return code


class CardStruct(msgspec.Struct, tag="card"):
    pass


class BillStruct(msgspec.Struct, tag="bill"):
    pass


class CodeStruct(msgspec.Struct):
    text: str

    def __post_init__(self) -> None:
        raise ValueError(f"Expected another than {self.text}")


class CheckedStruct(msgspec.Struct, forbid_unknown_fields=True):
    status: Status = Status.NEW
    level: Level = Level.LOW
    by_status: dict[Status, int] = {}
    payment: CardStruct | BillStruct | None = None
    key: UUID = UUID(int=1)
    code: CodeStruct | None = None


class ScoredModel(pydantic.BaseModel):
    total: float | None = None
    pairs: list[tuple[int, float | None]] = []
    others: dict[str, Any] = {}


class ConstantModel(ScoredModel, ser_json_inf_nan="constants"):
    pass


class ScoredStruct(msgspec.Struct):
    total: float | None = None
    pairs: list[tuple[int, float | None]] = []
    others: dict[str, Any] = {}


class TestModels:
    def test_rules_of_json_are_the_librarys_own(self) -> None:
        class Strict(pydantic.BaseModel, strict=True):
            model_config = pydantic.ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
            due: datetime
            raw: bytes
            tags: set[str] = pydantic.Field(alias="labels")

            @pydantic.computed_field  # type: ignore[prop-decorator]
            @property
            def size(self) -> int:
                return len(self.raw)

        class Tagged(msgspec.Struct, tag=True, forbid_unknown_fields=True):
            due: datetime
            raw: bytes
            tags: set[str]
            price: Decimal

        due = datetime(2030, 1, 1, tzinfo=UTC)
        for one in (Strict(due=due, raw=b"\xff", labels={"a"}), Tagged(due, b"\xff", {"a"}, Decimal("1.0"))):
            memory: Any = SimpleMachineMemory().typed(type(one))
            memory.write("a", one)
            assert memory.read("a") == one

    def test_a_model_that_cannot_be_read_back_is_not_written(self) -> None:
        class Renamed(pydantic.BaseModel):
            total: int = pydantic.Field(serialization_alias="sum")

        with pytest.raises(InvalidData, match=r"data\['total'\] is refused by Renamed: missing"):
            SimpleMachineMemory().typed(Renamed).write("a", Renamed(total=1))

    def test_neither_is_one_that_cannot_become_json(self) -> None:
        class Loose(msgspec.Struct):
            thing: Any

        with pytest.raises(InvalidData, match=r"^data cannot become JSON \(TypeError\)"):
            SimpleMachineMemory().typed(Loose).write("a", Loose(object()))

    @pytest.mark.parametrize("kind", [ScoredModel, ConstantModel, ScoredStruct], ids=lambda kind: kind.__name__)
    @pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
    def test_neither_is_a_number_that_json_does_not_have(self, number: float, kind: Any) -> None:
        machines = SimpleMachineMemory().typed(kind)
        for place, change in (
            ("['total']", {"total": number}),
            ("['pairs'][1][1]", {"pairs": [(1, None), (2, number)]}),
            ("['others']['by']['a'][0]", {"others": {"by": {"a": [number], "b": None}}}),
        ):
            with pytest.raises(InvalidData) as refused:
                machines.write("a", kind(**change))
            assert str(refused.value) == f"data{place} is {number!r}, which JSON does not have."
        assert machines.read("a") is None
        holder: Any = dataclass(type("Holder", (), {"__annotations__": {"scored": kind}}))
        with pytest.raises(InvalidData, match=rf"^data\['scored'\]\['total'\] is {number!r}, which JSON does not have"):
            SimpleMachineMemory().typed(holder).write("a", holder(kind(total=number)))

    @pytest.mark.parametrize("kind", [ScoredModel, ScoredStruct], ids=lambda kind: kind.__name__)
    def test_one_that_something_else_stored_is_not_read(self, kind: Any) -> None:
        machines = SimpleMachineMemory()
        machines.write("a", {})
        store: Any = machines.store
        store._machines["a"].data = '{"total": NaN}'

        with pytest.raises(WrongShape, match="data has a number that JSON does not have"):
            machines.typed(kind).read("a")

    def test_what_a_library_makes_of_it_by_rules_of_the_models_own_is_kept(self) -> None:
        class Texts(pydantic.BaseModel, ser_json_inf_nan="strings", ser_json_bytes="base64"):
            total: float
            raw: Any
            score: float
            note: str | None = None

            @pydantic.field_serializer("note", "score", when_used="json")
            def no_score(self, value: object) -> None:
                return None

            @pydantic.field_validator("score", mode="before")
            @classmethod
            def zero(cls, score: float | None) -> float:
                return score or 0

        class Raw(msgspec.Struct):
            raw: msgspec.Raw
            pair: tuple[int, str | None] = (1, None)

        memory = SimpleMachineMemory()
        memory.typed(Texts).write("a", Texts(total=math.inf, raw=b"\xff", score=math.nan))
        memory.typed(Raw).write("b", Raw(msgspec.Raw(b'{"a":[null,1.0]}')))

        assert memory.read("a") == {"total": "Infinity", "raw": "_w==", "score": None, "note": None}
        assert memory.typed(Texts).read("a") == Texts(total=math.inf, raw="_w==", score=0)
        assert memory.read("b") == {"raw": {"a": [None, 1.0]}, "pair": [1, None]}

    def test_what_code_of_their_own_raises_is_told_of_that_machine_alone(self) -> None:
        class Known(pydantic.BaseModel):
            status: str

            @pydantic.field_validator("status")
            @classmethod
            def check(cls, status: str) -> str:
                return {"new": status}[status]

        class Listed(msgspec.Struct):
            status: str

            def __post_init__(self) -> None:
                self.status = {"new": self.status}[self.status]

        for kind in (Known, Listed):
            memory = SimpleMachineMemory()
            memory.write("a", {"status": "secret"})
            memory.write("b", {"status": "new"})
            machines = memory.typed(kind)
            with pytest.raises(WrongShape, match=rf"data is refused by {kind.__name__} \(KeyError\)\.") as refused:
                machines.read("a")
            assert isinstance(refused.value.__cause__, KeyError)
            with machines.leases(["a", "b"]) as batch:
                assert [lease.id for lease in batch] == ["b"]
                assert isinstance(batch.refused["a"], WrongShape)

    @pytest.mark.parametrize(
        ("kind", "state", "place", "said"),
        [
            (OrderModel, {"total": "secret" * 1000, "status": 7}, "['status']", ": string_type, and 1 more"),
            (CheckedModel, {"status": "secret"}, "['status']", ": enum"),
            (CheckedModel, {"code": "secret"}, "['code']", ": value_error"),
            (CheckedModel, {"key": "secret"}, "['key']", ": uuid_parsing"),
            (CheckedModel, {"payment": {"kind": "secret"}}, "['payment']", ": union_tag_invalid"),
            (CheckedStruct, {"status": "secret"}, " .status", ": Invalid enum value"),
            (CheckedStruct, {"status": "secret - at `$.secret`"}, " .status", ": Invalid enum value"),
            (CheckedStruct, {"level": 4242}, " .level", ": Invalid enum value"),
            (CheckedStruct, {"by_status": {"secret": 1}}, " .by_status", ": Invalid enum value"),
            (CheckedStruct, {"payment": {"type": "secret"}}, " .payment.type", ": Invalid value"),
            (CheckedStruct, {"key": "secret"}, " .key", ": Invalid UUID"),
            (CheckedStruct, {"code": {"text": "secret"}}, " .code", " (ValueError)"),
            (CheckedStruct, {"code": {"text": 4242}}, " .code.text", ": Expected `str`, got `int`"),
            (CheckedStruct, {"else": "secret"}, "", ": Object contains unknown field `else`"),
        ],
    )
    def test_of_a_value_that_a_library_refuses_nothing_is_said(
        self, kind: Any, state: dict[str, Any], place: str, said: str
    ) -> None:
        memory = SimpleMachineMemory()
        memory.write("a", state)
        with pytest.raises(WrongShape) as refused:
            memory.typed(kind).read("a")
        message = str(refused.value)
        assert f": data{place} is refused by {kind.__name__}{said}. Correct" in message
        assert "secret" not in message and "4242" not in message
        assert refused.value.__cause__ is None


class TestViews:
    """A typed memory is the same memory, seen otherwise."""

    @few_stores
    def test_what_one_holds_the_other_does(self, store: Store) -> None:
        orders, worker = store.memory.typed(OrderClass), Worker(store.memory)
        with orders.lease("a"):
            assert store.memory.write("a", STATE) == 1
            assert worker.lock("a") is False
        assert store.memory.lock("b") is True
        assert orders.write("b", ORDERS[OrderClass]) == 1
        assert orders.unlock("b") is True
        assert store.lease_of("b") is None

    def test_they_are_equal_and_say_what_they_are(self) -> None:
        one, other = SimpleMachineMemory(), SimpleMachineMemory()

        assert one.typed(OrderDict) == one != other
        assert len({one, one.typed(OrderDict), other}) == 2
        assert repr(one.typed(OrderDict)) == "<SimpleMachineMemory '-' in this process with states of OrderDict>"

    def test_the_default_memory_is_that_of_the_settings_of_the_moment(self) -> None:
        orders = memory.typed(OrderClass)
        simple = {"default": {"BACKEND": "machine_memory.backends.simple.SimpleMachineMemory", "LOCK_TTL": 7}}
        for _ in range(2):
            with override_settings(MACHINE_MEMORIES=simple):
                assert orders.lock_ttl == 7
                assert orders.read("a") is None
                orders.write("a", ORDERS[OrderClass])
                assert memories["default"].read("a") == STATE
                assert repr(orders) == "<SimpleMachineMemory 'default' in this process with states of OrderClass>"

    def test_a_corrupt_state_is_still_one(self) -> None:
        machines = SimpleMachineMemory()
        machines.write("a", {})
        store: Any = machines.store
        store._machines["a"].data = "[1]"

        with pytest.raises(CorruptRecord, match="is a list, not a JSON object"):
            machines.typed(OrderDict).read("a")


class TestMappings:
    @each_store
    def test_any_mapping_is_a_state_and_comes_back_as_a_dict(self, store: Store) -> None:
        frozen: Mapping[str, Any] = MappingProxyType({"status": "new", "lines": [MappingProxyType({"n": 1})]})
        plain = {"status": "new", "lines": [{"n": 1}]}
        store.memory.write("a", frozen)
        with store.memory.lease("b") as lease:
            lease.commit(frozen)
        with store.memory.leases(["c"]) as batch:
            batch.commit(MappingProxyType({"c": frozen}))

        assert [store.memory.read(id) for id in "abc"] == [plain] * 3
        record = store.memory.record("a")
        assert record is not None and (record.status, type(record.data)) == ("new", dict)

    def test_what_is_wrong_in_it_is_told_as_in_a_dict(self) -> None:
        for value, reason in (({1: 2}, "has a key that is not a str: 1"), ({"x": {1}}, r"\['x'\] is a set")):
            with pytest.raises(MachineMemoryError, match=rf"^data\['in'\]\[0\]{'' if 'x' in value else ' '}{reason}"):
                SimpleMachineMemory().write("a", MappingProxyType({"in": [MappingProxyType(value)]}))
