"""What the demo says at its end."""

from rich.box import ROUNDED
from rich.console import Console
from rich.table import Table

from example_project.fulfilment.demo.audit import Audit
from example_project.fulfilment.events import Outcome, Step

SPELT_OUT = 10
"""How many lost updates are told one by one."""


def report(console: Console, audit: Audit, *, orders: int) -> None:
    table = Table(box=ROUNDED, show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(style="dim")
    deaths = ", ".join(f"{audit.kills[step]} {step.label}" for step in Step)
    table.add_row("Orders completed", f"{audit.completed:,}", f"of {orders:,}")
    table.add_row(
        "Events handled",
        f"{audit.handled:,}",
        f"{audit.outcomes[Outcome.EARLY]:,} came early and waited for their turn",
    )
    table.add_row("Duplicates ignored", f"{audit.outcomes[Outcome.DUPLICATE]:,}", "delivered again, and written once")
    table.add_row("Locks denied", f"{audit.denied:,}", "somebody else had the order: sent back")
    table.add_row("Workers killed", f"{audit.kills.total():,}", deaths)
    table.add_row("Leases taken over", f"{audit.taken_over:,}", "from the dead, once they had expired")
    table.add_row("Lost updates", f"{len(audit.lost):,}", "", style="red" if audit.lost else "green")
    console.print(table)
    for sentence in audit.lost[:SPELT_OUT]:
        console.print(f"  {sentence}", style="red", markup=False)
