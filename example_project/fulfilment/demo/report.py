"""What the demo says at its end."""

from collections.abc import Iterator

from rich.box import ROUNDED
from rich.console import Console
from rich.table import Table

from example_project.fulfilment.demo.audit import Audit
from example_project.fulfilment.events import Outcome, Step

SPELT_OUT = 10
"""How many lost updates and timers are told one by one."""


def report(console: Console, audit: Audit, *, orders: int, place: str) -> None:
    table = Table(title=f"Machines in {place}", title_justify="left", box=ROUNDED, show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(style="dim")
    for what, number, note in _rows(audit, orders):
        table.add_row(what, f"{number:,}", note)
    table.rows[-1].style = "red" if audit.lost or audit.mistimed else "green"
    console.print(table)
    for sentence in [*audit.lost, *audit.mistimed][:SPELT_OUT]:
        console.print(f"  {sentence}", style="red", markup=False)


def _rows(audit: Audit, orders: int) -> Iterator[tuple[str, int, str]]:
    deaths = ", ".join(f"{audit.kills[step]:,} {step.label}" for step in Step)
    yield "Orders completed", audit.completed, f"of {orders:,}; {audit.cancelled:,} cancelled for want of payment"
    yield "Events handled", audit.handled, f"{audit.outcomes[Outcome.EARLY]:,} came early and waited for their turn"
    yield "Duplicates ignored", audit.outcomes[Outcome.DUPLICATE], "delivered again, written once"
    yield (
        "Timers fired",
        audit.fired,
        f"of {audit.due:,} payments that never came; {len(audit.mistimed):,} twice or lost",
    )
    yield "Locks denied", audit.denied, "somebody else had the order: sent back"
    yield "Workers killed", audit.kills.total(), deaths
    yield "Leases taken over", audit.taken_over, "from the dead, once they had expired"
    yield "Lost updates", len(audit.lost), "acknowledged and missing, or made twice"
