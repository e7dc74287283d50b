"""Which databases are known, and by what."""

from collections.abc import Callable, Iterator

import pytest
from django.db import connections
from django.test import override_settings

from machine_memory import DatabaseMachineMemory, InvalidConfiguration, Metadata
from machine_memory.backends.database.queries import MachineQuerySet
from machine_memory.backends.database.statements import MachineStatements
from machine_memory.checks import check_settings
from machine_memory.doctor.examination import examine
from machine_memory.models import MachineRecord
from tests.clusters.processes import configured
from tests.conftest import Worker, databases
from tests.database.engines.watching import seen
from tests.database.store import DatabaseStore, set_up

UNKNOWN = (
    "The database 'roach' is of the kind 'cockroachdb', for which nothing is written here: machines can be kept in"
    " PostgreSQL, MySQL, MariaDB and SQLite, through Django's own backends or those that are built upon them."
)


class TestUnknown:
    @pytest.fixture(autouse=True)
    def roach(self) -> Iterator[None]:
        pytest.importorskip("psycopg")
        memories = {"default": {"OPTIONS": {"using": "roach"}}}
        settings = {"ENGINE": "tests.database.engines.unknown", "NAME": "nowhere"}
        with configured("roach", settings), override_settings(MACHINE_MEMORIES=memories):
            yield

    def test_the_system_checks_say_what_is_known(self) -> None:
        (message,) = check_settings()
        assert str(message) == (
            f"MACHINE_MEMORIES['default']: (machine_memory.E001) {UNKNOWN}\n"
            "\tHINT: Correct MACHINE_MEMORIES: see docs/reference/settings.md."
        )

    def test_so_does_the_doctor(self) -> None:
        (finding,) = examine("default")
        assert (finding.check, finding.level, finding.text) == ("settings", "error", UNKNOWN)

    def test_so_does_each_verb_before_anything_is_asked(self) -> None:
        memory = DatabaseMachineMemory(using="roach")
        verbs: list[Callable[[], object]] = [
            lambda: memory.read("a"),
            lambda: memory.write("a", {}),
            lambda: memory.lock("a"),
            lambda: memory.lease("a").__enter__(),
            lambda: memory.claim().__enter__(),
            lambda: list(memory.find()),
            memory.purge_expired_locks,
        ]
        for verb in verbs:
            with pytest.raises(InvalidConfiguration) as failed:
                verb()
            assert str(failed.value) == UNKNOWN
        assert connections["roach"].connection is None


@pytest.mark.parametrize(
    ("database", "engine"),
    [
        pytest.param(*parameter.values, engine, marks=parameter.marks)
        for name, engine in (("postgresql", "watched"), ("mariadb", "watched_mysql"))
        for parameter in databases(name)
    ],
    indirect=["database"],
)
def test_a_backend_that_is_built_upon_a_known_one_is_known(database: DatabaseStore, engine: str) -> None:
    with set_up(database.alias, ENGINE=f"tests.database.engines.{engine}"):
        before, memory = seen.total(), database.memory
        memory.write("a", {"n": 1}, metadata=Metadata(status="new"))
        with memory.leases(["a", "b"]) as batch:
            assert Worker(memory).lock("a") is False
            assert batch.commit({"a": {"n": 2}, "b": {"n": 1}}) == {"a": 2, "b": 1}
        with memory.lease("a") as lease:
            lease.renew()
            lease.commit({"n": 3})
        assert memory.read("a") == {"n": 3}
        assert [record.id for record in memory.find(status="new")] == ["a"]
        assert MachineRecord.objects.using(database.alias).filter(data__n=3).count() == 1
        assert type(database.steps) is (MachineStatements if database.one_statement else MachineQuerySet)
        assert seen.total() - before >= 8
