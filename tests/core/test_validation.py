"""Data that goes in comes out equal, or is refused."""

import json
from enum import IntEnum
from typing import Any

import pytest
from django.http import QueryDict
from hypothesis import example, given, settings
from hypothesis import strategies as st

from machine_memory import InvalidData, InvalidVersion, SimpleMachineMemory
from machine_memory.core import validation
from machine_memory.core.records import EncodedData
from machine_memory.core.validation import quoted
from tests.conftest import TESTED
from tests.contract.stores import DATABASES
from tests.database.store import DatabaseStore

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda values: st.lists(values, max_size=4) | st.dictionaries(text, values, max_size=4),
    max_leaves=20,
)
states = st.dictionaries(text, json_values, max_size=5)


def encode(data: object) -> EncodedData:
    return validation.state(data, max_bytes=1000, max_depth=30)


@given(states)
@example({"e+": 1e23, "x": ['"1e+5"', -1e300, "\\"]})
def test_json_values_read_back_as_they_were(data: dict[str, Any]) -> None:
    assert repr(json.loads(validation.state(data, max_bytes=10**6, max_depth=30))) == repr(data)


@pytest.mark.django_db(databases=[DATABASES[name] for name in TESTED])
@settings(max_examples=100, deadline=None)
@given(data=states)
def test_json_values_read_back_as_they_were_from_every_database(data: dict[str, Any]) -> None:
    for name in TESTED:
        memory = DatabaseStore(name).memory
        memory.write("a", data)
        assert repr(memory.read("a")) == repr(data)


@given(states, st.integers(1, 200))
def test_the_size_that_is_measured_is_the_size_that_is_stored(data: dict[str, Any], limit: int) -> None:
    size = len(validation.state(data, max_bytes=10**6, max_depth=30).encode())
    try:
        validation.state(data, max_bytes=limit, max_depth=30)
    except InvalidData:
        assert size > limit
    else:
        assert size <= limit


@given(st.recursive(st.just([]), lambda values: st.lists(values, min_size=1, max_size=2), max_leaves=10))
def test_depth_is_counted_in_levels_of_lists_and_objects(value: list[Any]) -> None:
    def depth(value: list[Any]) -> int:
        return 1 + max((depth(item) for item in value), default=0)

    levels = 1 + depth(value)
    validation.state({"v": value}, max_bytes=1000, max_depth=levels)
    with pytest.raises(InvalidData, match=f"is nested deeper than {levels - 1} levels"):
        validation.state({"v": value}, max_bytes=1000, max_depth=levels - 1)


def test_subclasses_of_json_types_are_taken_as_what_they_are() -> None:
    class Text(str):
        __slots__ = ()

    class Number(int):
        pass

    assert encode({Text("k"): Text("v"), "n": Number(5)}) == '{"k":"v","n":5}'


def test_a_mapping_that_gives_other_items_than_it_has_is_refused() -> None:
    for data in (QueryDict("a=1&a=2"), {"query": QueryDict("a=1")}):
        with pytest.raises(InvalidData, match="data would not read back equal: a mapping in it, such as a QueryDict"):
            encode(data)


def test_numbers_of_other_kinds_are_taken_as_what_they_are() -> None:
    class Version(IntEnum):
        SECOND = 2

    assert type(validation.expected_version(Version.SECOND)) is int
    assert type(validation.fence(Version.SECOND)) is int


@pytest.mark.parametrize("version", [2**63, 10**5000], ids=["63 bits", "5,000 digits"])
def test_a_version_that_no_store_can_hold_is_refused(version: int) -> None:
    with pytest.raises(InvalidVersion, match="expected_version must be an int from 0"):
        SimpleMachineMemory().write("a", {}, expected_version=version)


def test_a_path_quotes_no_more_than_64_characters_of_a_key() -> None:
    with pytest.raises(InvalidData) as refused:
        encode({"k" * 100: {"second": {3}}})
    assert str(refused.value).startswith(f"data['{'k' * 64}'…]['second'] is a set")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("order-42", "'order-42'"),
        ("x" * 65, f"'{'x' * 64}'…"),
        ("a\r\nb\x1b[0m\u202e", "'a\\r\\nb\\x1b[0m\\u202e'"),
        ("\ud800", "'\\ud800'"),
        (None, "None"),
        (1.5, "1.5"),
        (2**64, "<int>"),
        (b"secret", "<bytes>"),
        ({"secret": 1}, "<dict>"),
    ],
)
def test_messages_quote_values_escaped_and_cut(value: object, text: str) -> None:
    assert quoted(value) == text


def test_limits_are_the_memorys_own() -> None:
    memory = SimpleMachineMemory(max_data_bytes=20, max_data_depth=2)
    memory.write("a", {"k": [1, 2, 3]})

    with pytest.raises(InvalidData, match="data must be at most 20 bytes as JSON"):
        memory.write("a", {"k": "x" * 20})
    with pytest.raises(InvalidData, match="is nested deeper than 2 levels"):
        memory.write("a", {"k": [[]]})
