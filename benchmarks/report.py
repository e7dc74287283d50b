"""What a run found out: tables, and the bars that it is judged by; as Markdown and as JSON. And what they depend on."""

import json
import os
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from sqlite3 import sqlite_version

from django.db import connections

from benchmarks import stores

HUNDRED, TEN = 100, 10
PACKAGES = (
    *("django", "psycopg", "psycopg-binary", "mysqlclient", "redis", "hiredis"),
    *("django-pglock", "python-redis-lock", "langgraph-checkpoint-postgres"),
)
QUESTIONS = {"postgresql": "SHOW {}", "mariadb": "SELECT @@GLOBAL.{}", "sqlite": "PRAGMA {}"}
SETTINGS = {
    "postgresql": (
        *("server_version", "fsync", "synchronous_commit", "full_page_writes", "wal_level", "autovacuum"),
        *("shared_buffers", "max_wal_size"),
    ),
    "mariadb": (
        *("version", "innodb_flush_log_at_trx_commit", "log_bin", "sync_binlog", "innodb_doublewrite"),
        *("innodb_flush_method", "innodb_buffer_pool_size"),
    ),
    "sqlite": ("journal_mode", "synchronous", "wal_autocheckpoint", "cache_size"),
}
SYNCHRONOUS = ("OFF", "NORMAL", "FULL", "EXTRA")


@dataclass(frozen=True, slots=True)
class Table:
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure to judge by: ``measured`` is to be at most ``most`` or at least ``least``."""

    what: str
    measured: float
    unit: str = "times"
    most: float | None = None
    least: float | None = None

    @property
    def limit(self) -> str:
        return f"at least {self.least:g} {self.unit}" if self.most is None else f"at most {self.most:g} {self.unit}"

    @property
    def met(self) -> bool:
        return (self.most is None or self.measured <= self.most) and (self.least is None or self.measured >= self.least)


@dataclass(slots=True)
class Section:
    title: str
    note: str
    tables: list[Table] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    seconds: float = 0
    """How long it took to find out."""

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        self.tables.append(Table(title, columns, rows))

    def bar(self, what: str, measured: float, unit: str = "times", **limit: float) -> None:
        self.bars.append(Bar(what, measured, unit, **limit))


@dataclass(slots=True)
class Report:
    environment: dict[str, str]
    missing: dict[str, str]
    sections: dict[str, Section] = field(default_factory=dict)

    def markdown(self) -> str:
        return "\n\n".join(self._blocks()) + "\n"

    def json(self) -> str:
        bars = [{**asdict(bar), "limit": bar.limit, "met": bar.met} for bar in self._bars()]
        return json.dumps({**asdict(self), "bars": bars}, indent=2, ensure_ascii=False) + "\n"

    def _bars(self) -> list[Bar]:
        return [bar for section in self.sections.values() for bar in section.bars]

    def _blocks(self) -> Iterator[str]:
        yield "# Benchmarks of machine_memory"
        yield (
            "Times are medians in microseconds unless said otherwise. The contestants of a table took turns in this one"
            " run; a ratio is the median of the ratios of each round. Every contestant of a store has the same"
            " settings, changes the same state in the same place, and has its JSON encoded and decoded."
        )
        yield _table(["", ""], [[f"**{name}**", text] for name, text in self.environment.items()])
        for name, reason in self.missing.items():
            yield f"Not measured: {name}: {reason}."
        for section in self.sections.values():
            yield f"## {section.title}"
            yield section.note
            for table in section.tables:
                yield f"**{table.title}**"
                yield _table(table.columns, table.rows)
        if bars := self._bars():
            yield "## The bars"
            rows = [[bar.what, bar.limit, f"{_figure(bar.measured)} {bar.unit}", bar.met] for bar in bars]
            yield _table(["", "bar", "measured", "met"], rows)
        spent = {name: section.seconds for name, section in self.sections.items()}
        parts = ", ".join(f"{name} {seconds:.0f}" for name, seconds in spent.items())
        yield f"Measured in {sum(spent.values()):.0f} s ({parts})."


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    # Text is aligned to the left, and figures to the right.
    texts = [all(isinstance(row[index], str | bool) for row in rows) for index in range(len(columns))]
    lines = [columns, ["---" if text else "--:" for text in texts], *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(cell: object) -> str:
    match cell:
        case None:
            return "-"
        case bool():
            return "yes" if cell else "**no**"
        case int():
            return f"{cell:,}"
        case float():
            return _figure(cell)
    return str(cell).replace("|", "\\|")


def _figure(number: float) -> str:
    """Return three digits that mean something."""
    if abs(number) >= HUNDRED:
        return f"{number:,.0f}"
    return f"{number:.1f}" if abs(number) >= TEN else f"{number:.2f}"


def environment() -> dict[str, str]:
    """Return the machine, the versions, and how durable each store is set up to be."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    system = f"{os.cpu_count()} CPUs, {memory:.0f} GiB of memory, {platform.system()} {platform.release()}"
    with stores.scratch(dict.fromkeys(stores.DATABASES, 0)):
        return {
            "machine": f"{_processor()}, {system}",
            "Python": f"{platform.python_version()}; {', '.join(map(_package, PACKAGES))}",
            **{stores.NAMES[store]: (_redis if store == stores.REDIS else _database)(store) for store in stores.SERVED},
        }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text() if info.exists() else "")
    return found[1] if found else platform.machine()


def _package(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"{name} absent"


def _database(store: str) -> str:
    found = {}
    with connections[store].cursor() as cursor:
        for setting in SETTINGS[store]:
            cursor.execute(QUESTIONS[store].format(setting))
            found[setting] = str(cursor.fetchone()[0])
    if store == "sqlite":
        return _described(sqlite_version, found | {"synchronous": SYNCHRONOUS[int(found["synchronous"])]})
    return _described(found.pop(SETTINGS[store][0]), found)


def _redis(store: str) -> str:
    with stores.redis() as client:
        found = {name: client.config_get(name).get(name) for name in ("appendonly", "appendfsync", "save")}
        return _described(client.info("server")["redis_version"], found)


def _described(release: str, settings: Mapping[str, str]) -> str:
    return f"{release}; {', '.join(f'{name} = {value}' for name, value in settings.items())}"
