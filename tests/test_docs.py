"""The README says what is true: its code runs, its tables are those of the code."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from django.test import override_settings

import machine_memory
from machine_memory import BaseMachineMemory, Lease, SimpleMachineMemory, memories, memory, problems
from machine_memory.checks import check_settings
from machine_memory.handler import DEFAULT_BACKEND
from tests import servers
from tests.conftest import Worker

README = (Path(__file__).parents[1] / "README.md").read_text()
USE, SETTINGS, REDIS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.django_db(transaction=True)
def test_the_use_that_is_shown_works() -> None:
    sent_back: list[dict[str, str]] = []
    names: dict[str, Any] = {"send_back": sent_back.append}
    exec(USE, names)  # noqa: S102
    for event in ("a", "b", "a"):
        names["handle"]({"order": "order-42", "id": event})
    Worker(memory).lock("order-42")
    names["handle"]({"order": "order-42", "id": "c"})

    assert memory.read("order-42") == {"status": "new", "seen": ["a", "b"]}
    assert sent_back == [{"order": "order-42", "id": "c"}]


def test_the_settings_that_are_shown_work() -> None:
    names: dict[str, Any] = {}
    exec(SETTINGS, names)  # noqa: S102
    with override_settings(MACHINE_MEMORIES=names["MACHINE_MEMORIES"]):
        assert memories["default"].lock_ttl == 30
        assert isinstance(memories["fast"], SimpleMachineMemory)


def test_the_settings_that_are_shown_for_redis_work() -> None:
    names: dict[str, Any] = {}
    exec(REDIS, names)  # noqa: S102
    with override_settings(CACHES=names["CACHES"], MACHINE_MEMORIES=names["MACHINE_MEMORIES"]):
        assert isinstance(memories["default"], machine_memory.RedisMachineMemory)
        assert check_settings() == []


def test_the_user_that_is_shown_for_redis_is_that_of_the_tests() -> None:
    (shown,) = re.findall(r"`ACL SETUSER (.*?)`", README, re.DOTALL)

    assert re.findall(r"\s([+-]\S+)", shown) == re.findall(r"([+-]\S+) ", servers.LEAST)


def test_the_table_of_checks_is_that_of_the_code() -> None:
    assert re.findall(r"^\| `machine_memory\.(\w+)` \|", README, re.MULTILINE) == list(problems._PROBLEMS)


def test_the_table_of_settings_is_that_of_the_code() -> None:
    table = dict(re.findall(r"^\| `([A-Z_]+)` \| `(.+?)` \|", README, re.MULTILINE))
    parameters = inspect.signature(BaseMachineMemory).parameters.values()
    defaults = {parameter.name.upper(): repr(parameter.default) for parameter in parameters}

    assert table == {"BACKEND": f'"{DEFAULT_BACKEND}"', **defaults, "OPTIONS": "{}"}


@pytest.mark.parametrize(("verb", "arguments"), re.findall(r"^\| `(?:memory\.)?(\w+)\((.*?)\)`", README, re.MULTILINE))
def test_the_tables_of_calls_are_those_of_the_code(verb: str, arguments: str) -> None:
    signature = inspect.signature(getattr(BaseMachineMemory, verb))
    names = [str(parameter).split(":")[0] for parameter in signature.parameters.values()][1:]
    shown = [argument.strip().split("=")[0] for argument in arguments.split(",") if argument.strip() != "*"]

    assert shown == names
    assert hasattr(BaseMachineMemory, f"a{verb}")


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`((?:Lock|Read|Unknown|Version)[A-Z]\w+)`", README))))
def test_the_errors_that_are_named_exist(name: str) -> None:
    assert issubclass(getattr(machine_memory, name), machine_memory.MachineMemoryError)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`lease\.(\w+)|`\.(\w+)`", README))))
def test_what_is_said_of_a_lease_exists(name: tuple[str, str]) -> None:
    with SimpleMachineMemory().lease("a") as lease:
        assert isinstance(lease, Lease)
        assert hasattr(lease, "".join(name))
