"""The reference says what is true: its tables are those of the code."""

import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest
from django.core.management import get_commands, load_command_class

import machine_memory
from machine_memory import BaseMachineMemory, Batch, DatabaseMachineMemory, Lease, RedisMachineMemory, exceptions
from machine_memory.core.telemetry import OUTCOMES
from machine_memory.handler import DEFAULT_BACKEND
from machine_memory.models import MachineRecord
from tests import servers

DOCS = Path(__file__).parents[2] / "docs"
CALLS, SETTINGS, ERRORS, CHECKS, COMMANDS, METRICS, NAMES = (
    (DOCS / f"reference/{name}.md").read_text()
    for name in ("calls", "settings", "errors", "checks", "commands", "metrics", "names")
)
SECTIONS = dict(re.findall(r"^## In (machine_memory[\w.]*)\n(.*?)(?=^## |\Z)", NAMES, re.MULTILINE | re.DOTALL))
OWNERS = {"memory": BaseMachineMemory, "lease": Lease, "batch": Batch}
WITHOUT_A_TWIN = ("detach", "typed")
"""Nothing is asked of the store."""
TABLES = re.sub(r"^(?!\|).*$", "", CALLS, flags=re.MULTILINE)
SHOWN = re.findall(r"`(memory|lease|batch)\.(\w+)\((.*?)\)`", TABLES)


def options(command: str) -> set[str]:
    parser = load_command_class(get_commands()[command], command).create_parser("manage.py", command)
    return {option for action in parser._actions for option in action.option_strings}


def parameters(call: object, *, skip: int = 1) -> list[str]:
    """Return the parameters of a call as the tables have them: with their defaults, without their types."""
    found: list[str] = []
    for parameter in list(inspect.signature(call).parameters.values())[skip:]:  # type: ignore[arg-type]
        if parameter.kind is parameter.KEYWORD_ONLY and not any(name.startswith("*") for name in found):
            found.append("*")
        has_default = parameter.default is not parameter.empty
        name = f"*{parameter.name}" if parameter.kind is parameter.VAR_POSITIONAL else parameter.name
        found.append(f"{name}={parameter.default!r}" if has_default else name)
    return found


@pytest.mark.parametrize(("owner", "verb", "arguments"), SHOWN)
def test_a_call_is_shown_with_its_arguments_and_has_a_twin(owner: str, verb: str, arguments: str) -> None:
    kind = OWNERS[owner]

    assert arguments == ", ".join(parameters(getattr(kind, verb)))
    assert hasattr(kind, f"a{verb}") == (verb not in WITHOUT_A_TWIN)


@pytest.mark.parametrize("owner", OWNERS)
def test_each_call_and_attribute_is_shown_and_nothing_else(owner: str) -> None:
    memory = machine_memory.SimpleMachineMemory()
    with memory.lease("a") as lease, memory.leases(["b"]) as batch:
        found = dir({"memory": BaseMachineMemory, "lease": lease, "batch": batch}[owner])
    public = {name for name in found if not name.startswith("_")}
    twins = {f"a{name}" for name in public}

    assert set(re.findall(rf"`{owner}\.(\w+)", TABLES)) == public - twins


@pytest.mark.parametrize("module", ["machine_memory.testing", "machine_memory.tasks", "machine_memory.models"])
def test_a_name_that_is_shown_exists_with_its_arguments(module: str) -> None:
    place: object = MachineRecord.objects if module == "machine_memory.models" else import_module(module)
    firsts = "".join(re.findall(r"^\| (.+?) \|", SECTIONS[module], re.MULTILINE))
    calls = re.findall(r"`(\w+)\((.*?)\)`", firsts)

    assert calls
    for name, arguments in calls:
        call = getattr(place, name)
        call = getattr(call, "func", call)  # Of a task, what it calls.
        assert arguments == ", ".join(parameters(call, skip=0)), name


@pytest.mark.parametrize("module", ["machine_memory", "machine_memory.testing", "machine_memory.testing.contract"])
def test_every_name_that_is_exported_is_shown(module: str) -> None:
    known = f"{NAMES}{ERRORS}"
    assert [name for name in import_module(module).__all__ if not re.search(rf"`{name}\b", known)] == []


def test_the_table_of_settings_is_that_of_the_code() -> None:
    table = dict(re.findall(r"^\| `([A-Z_]+)` \| `(.+?)` \|", SETTINGS, re.MULTILINE))
    _store, *options = inspect.signature(BaseMachineMemory).parameters.values()
    defaults = {option.name.upper(): repr(option.default) for option in options}

    assert table == {"BACKEND": f'"{DEFAULT_BACKEND}"', **defaults, "OPTIONS": "{}"}


def test_the_tables_of_options_are_those_of_the_code() -> None:
    table = dict(re.findall(r"^\| `([a-z_]+)` \| `(.+?)` \|", SETTINGS, re.MULTILINE))
    kinds = (DatabaseMachineMemory, RedisMachineMemory)
    options = {name: option for kind in kinds for name, option in inspect.signature(kind).parameters.items()}

    assert table == {
        name: repr(option.default).replace("'", '"')
        for name, option in options.items()
        if name not in ("client", "options")
    }


def test_the_table_of_checks_is_that_of_the_code() -> None:
    code = "".join(path.read_text() for path in Path(machine_memory.__file__).parent.rglob("*.py"))
    ids = set(re.findall(r'problem\(\s*"([EW]\d+)"', code))
    shown = re.findall(r"^\| `machine_memory\.(\w+)` \|", CHECKS, re.MULTILINE)
    assert shown == sorted(ids, key=lambda id: (id[1], id))


def test_the_operations_and_outcomes_of_spans_are_those_of_the_code() -> None:
    code = "".join(path.read_text() for path in Path(machine_memory.__file__).parent.rglob("*.py"))
    one_of_two = r'"(\w+)"(?: if .+? else "(\w+)")?'
    operations = re.findall(rf"\.(?:steps|_step|_read)(?:\(|, ){one_of_two}", code)
    outcomes = [*re.findall(rf"outcome = {one_of_two}", code), OUTCOMES.values()]

    for name, found in {"operation": operations, "outcome": outcomes}.items():
        (shown,) = re.findall(rf"^\| `machine_memory.{name}` \| all \| (.+) \|$", METRICS, re.MULTILINE)
        words = set(re.findall(r"\w+", shown)) - {"of", "the", "admin", "commands"}
        assert words == {word for words in found for word in words if word}


def test_the_table_of_errors_has_each_of_them_once() -> None:
    names = {name for name, kind in vars(exceptions).items() if isinstance(kind, type) and "memory" in kind.__module__}
    shown = re.findall(r"^\| `(\w+)` \| .+ \| .+ \|$", ERRORS, re.MULTILINE)
    assert sorted(shown) == sorted(names)


def test_the_table_of_permissions_is_that_of_the_code() -> None:
    options = MachineRecord._meta
    names = {"view_machinerecord", *(name for name, _ in options.permissions)}
    admin = (DOCS / "operations/admin.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \| (?:to|with) ", admin, re.MULTILINE)) == names


def test_the_user_that_is_shown_for_redis_is_that_of_the_tests() -> None:
    (shown,) = re.findall(r"`ACL SETUSER (.*?)`", (DOCS / "operations/redis.md").read_text(), re.DOTALL)

    assert re.findall(r"\s([+-]\S+)", shown) == re.findall(r"([+-]\S+) ", servers.LEAST)


@pytest.mark.parametrize("name", [name for name, app in get_commands().items() if app == "machine_memory"])
class TestACommand:
    def test_is_shown_with_its_options(self, name: str) -> None:
        (section,) = re.findall(rf"^## {name}\n(.*?)(?=^## |\Z)", COMMANDS, re.MULTILINE | re.DOTALL)
        shown = set(re.findall(r"^\| `(--[\w-]+)", section, re.MULTILINE))

        assert shown == options(name) - options("flush")  # which has those of Django's own

    def test_is_used_with_options_that_it_has(self, name: str) -> None:
        lines = re.findall(rf"manage\.py {name}\b(.*)", "".join(page.read_text() for page in DOCS.rglob("*.md")))

        assert lines, f"no page shows {name}"
        assert {option for line in lines for option in re.findall(r"(?<!\w)--[\w-]+", line)} <= options(name)
