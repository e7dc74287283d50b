"""The shape of the package: what may import what, and what importing it needs."""

import ast
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import call_command

import machine_memory
from machine_memory import exceptions
from tests.conftest import TESTED
from tests.contract.stores import DATABASES

ROOT = Path(machine_memory.__file__).parent
FLOORS = [
    {"exceptions"},
    # The promise, without any store.
    {"core", "core.records", "core.transactions"},
    {"core.encoding", "core.kept", "core.pieces"},
    {"core.validation"},
    {"core.telemetry", "core.store", "core.misfits"},
    {"core.failures", "core.mapping", "core.retries", "core.twins", "core.libraries"},
    {"core.lease", "core.conversion"},
    {"core.contexts", "core.keeper", "core.typed"},
    {"core.lifecycle"},
    {"core.travel", "core.batch"},
    {"core.blocks"},
    {"core.claims"},
    {"core.memory"},
    {"doctor", "core.annotations"},
    {"doctor.findings"},
    # The stores, one room each.
    {"backends", "backends.database.sql", "backends.database.transactions"},
    {"backends.simple.store"},
    {"backends.simple"},
    {"backends.database.clock", "backends.database.contention", "backends.database.fences", "backends.database.fields"},
    {"backends.database.queries", "backends.database.sessions"},
    {"backends.database.batches", "backends.database.claims", "backends.database.keeping"},
    {"backends.database.copies", "backends.database.purge"},
    {"backends.database.page"},
    {"backends.database.statements"},
    {"backends.database.checks"},
    {"backends.database.doctor"},
    {"backends.database.store"},
    {"backends.database"},
    {"backends.redis.scripts", "backends.redis.client"},
    {"backends.redis.servers"},
    {"backends.redis.cluster", "backends.redis.hashes", "backends.redis.checks"},
    {"backends.redis.hints", "backends.redis.listing", "backends.redis.look"},
    {"backends.redis.due", "backends.redis.relatives"},
    {"backends.redis.indexes"},
    {"backends.redis.doctor"},
    {"backends.redis.store"},
    {"backends.redis"},
    # What a Django project touches.
    {"models", "handler"},
    {"doctor.examination", "tasks", "checks", "management.progress", "management.signals"},
    {"management", "management.copying", "management.purging", "management.upgrading", "management.waking"},
    {"admin.memories", "admin.lists"},
    {"admin.display", "admin.machines"},
    {"admin.columns", "admin.listing", "admin.release"},
    {"admin.window"},
    {"testing.clock"},
    {"testing.isolation", "testing.staging"},
    {"testing.cases", "testing.plugin", "testing.contract.promises"},
    {"testing.contract.leases", "testing.contract.listings", "testing.contract.many", "testing.contract.states"},
    {"testing.contract"},
    {"testing"},
    {"apps", "", "admin", "management.commands", "management.commands.machine_memory_doctor"},
    {
        "management.commands.purge_expired_locks",
        "management.commands.purge_machines",
        "management.commands.machine_memory_copy",
        "management.commands.machine_memory_upgrade",
        "management.commands.machine_memory_wake",
        "management.commands.machine_memory_reindex",
    },
]
"""From the ground up; modules on one floor do not know each other."""
FLOOR_OF = {module: floor for floor, modules in enumerate(FLOORS) for module in modules}
every_database = pytest.mark.django_db(databases=[DATABASES[name] for name in TESTED])


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        if not name.startswith("migrations"):
            found[name] = path
    return found


def imports(path: Path) -> set[str]:
    """Return the modules of this package that are imported when ``path`` is, later, or for type checkers alone."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("machine_memory"):
            module = node.module.removeprefix("machine_memory").removeprefix(".")
            for alias in node.names:
                inner = f"{module}.{alias.name}".lstrip(".")
                found.add(inner if inner in FLOOR_OF else module)
        elif isinstance(node, ast.Import):
            assert not any(alias.name.startswith("machine_memory") for alias in node.names), f"{path}: use `from`"
    return found


def test_every_module_has_a_floor() -> None:
    assert set(modules()) == set(FLOOR_OF)


@pytest.mark.parametrize(("module", "path"), list(modules().items()))
def test_imports_point_down(module: str, path: Path) -> None:
    for imported in imports(path):
        assert FLOOR_OF[imported] < FLOOR_OF[module], (
            f"machine_memory.{module} imports machine_memory.{imported}, which is not below it. Move what both need to"
            f" a floor below {module!r} (see FLOORS), or let the caller hand it over."
        )


LONGEST, LONGER = 350, 400
ONE_CLASS = {"core.memory", "backends.database.store"}
"""With a method for each verb: were it in several files, nobody would find where a call goes."""
FACE = {"", "apps", "models", "admin.columns"}
"""What shows the machines of a database, and offers the memories by their names."""


@pytest.mark.parametrize(("module", "path"), list(modules().items()))
def test_stores_are_known_in_their_own_rooms_alone(module: str, path: Path) -> None:
    own = re.match(r"backends\.\w+", module)
    for imported in imports(path):
        if store := re.match(r"backends\.\w+", imported):
            assert module in FACE or (own and own[0] == store[0]), (
                f"machine_memory.{module} imports machine_memory.{imported}. What is asked alike of every store belongs"
                " into core.store or doctor; what only one can be asked, into its own folder."
            )


@pytest.mark.parametrize(("module", "path"), list(modules().items()))
def test_modules_can_be_read_at_a_glance(module: str, path: Path) -> None:
    tree = ast.parse(path.read_text())
    most = LONGER if module in ONE_CLASS else LONGEST
    assert len(path.read_text().splitlines()) <= most, f"{module} is too long to hold in the head: split it by topic"
    assert ast.get_docstring(tree), f"{module} does not say in a line what it is for"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            assert node.end_lineno - node.lineno < 40, f"{module}.{node.name} does more than one thing"


def test_the_package_can_be_imported_before_django_is_set_up() -> None:
    check = (
        "import machine_memory, sys; machine_memory.memory;"
        "assert not {'machine_memory.models', 'redis', 'opentelemetry.sdk'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", check], check=True, env={"PATH": ""}, cwd=ROOT.parent)


def test_the_root_lists_what_it_exports() -> None:
    source = (ROOT / "__init__.py").read_text()
    imported = {
        alias.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("machine_memory")
        for alias in node.names
    }
    assert set(machine_memory.__all__) == imported


def test_every_error_is_exported_and_says_what_it_means() -> None:
    errors = [error for error in vars(exceptions).values() if isinstance(error, type) and "memory" in error.__module__]
    assert len(errors) == 22
    for error in errors:
        assert error.__name__ in machine_memory.__all__
        assert issubclass(error, exceptions.MachineMemoryError)
        assert error.__doc__ and error.__doc__.endswith(".")


@pytest.mark.django_db(databases="__all__")
def test_the_migrations_are_up_to_date() -> None:
    call_command("makemigrations", "machine_memory", check=True, dry_run=True, verbosity=0)


@every_database
def test_no_database_has_anything_to_say_against_the_model() -> None:
    output = StringIO()
    call_command("check", "machine_memory", databases=[DATABASES[name] for name in TESTED], stdout=output)
    assert output.getvalue() == "System check identified no issues (0 silenced).\n"
