"""What a run found out: tables, and the bars that it is judged by; as Markdown and as JSON."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

Cell = str | int | float | bool | None
HUNDRED, TEN = 100, 10


@dataclass(frozen=True, slots=True)
class Table:
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A figure to judge by: ``measured`` is to be at most ``most`` or at least ``least``."""

    what: str
    measured: float
    unit: str = "times"
    most: float | None = None
    least: float | None = None

    @property
    def limit(self) -> str:
        figures = (("at most", self.most), ("at least", self.least))
        return " and ".join(f"{words} {figure:g} {self.unit}" for words, figure in figures if figure is not None)

    @property
    def met(self) -> bool:
        return (self.most is None or self.measured <= self.most) and (self.least is None or self.measured >= self.least)


@dataclass(slots=True)
class Section:
    title: str
    note: str = ""
    tables: list[Table] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    seconds: float = 0
    """How long it took to find out."""


@dataclass(slots=True, kw_only=True)
class Report:
    environment: dict[str, str]
    missing: dict[str, str]
    sections: dict[str, Section]

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
            if section.note:
                yield section.note
            for table in section.tables:
                yield f"**{table.title}**"
                yield _table(table.columns, table.rows)
        if bars := self._bars():
            yield "## The bars"
            rows: list[list[Cell]] = [
                [bar.what, bar.limit, f"{figure(bar.measured)} {bar.unit}", bar.met] for bar in bars
            ]
            yield _table(["", "bar", "measured", "met"], rows)
        spent = {name: section.seconds for name, section in self.sections.items()}
        parts = ", ".join(f"{name} {seconds:.0f}" for name, seconds in spent.items())
        yield f"Measured in {sum(spent.values()):.0f} s ({parts})."


def figure(number: float) -> str:
    """Return three digits that mean something."""
    if abs(number) >= HUNDRED:
        return f"{number:,.0f}"
    return f"{number:.1f}" if abs(number) >= TEN else f"{number:.2f}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    # Text is aligned to the left, and figures to the right.
    texts = [all(isinstance(row[index], str | bool) for row in rows) for index in range(len(columns))]
    lines = [columns, ["---" if text else "--:" for text in texts], *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(cell: Cell) -> str:
    match cell:
        case None:
            return "-"
        case bool():
            return "yes" if cell else "**no**"
        case int():
            return f"{cell:,}"
        case float():
            return figure(cell)
    return cell.replace("|", "\\|")
