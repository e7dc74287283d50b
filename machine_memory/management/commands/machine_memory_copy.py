"""Copy machines from one memory to another."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from machine_memory.core.validation import MAX_AGE, MAX_BATCH, duration, machine_id, option, quoted, ttl
from machine_memory.exceptions import MachineMemoryError
from machine_memory.handler import memories
from machine_memory.management.copying import Comparing, Copying, Run, refusal
from machine_memory.management.progress import listed, progress
from machine_memory.management.purging import duration_of
from machine_memory.management.signals import sigterm_raises


class Command(BaseCommand):
    help = (
        "Copy the machines of one memory to another as they are, each under a lease at the source, while workers go on"
        " there. What the target has already is passed over, so that a run can be interrupted and repeated, and the"
        " last one, once the workers have stopped, is short. The exit status is 0 where all are at the target."
    )

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        kwargs |= {"epilog": "Example: manage.py machine_memory_copy --from default --to postgres --wait 30s"}
        return super().create_parser(prog_name, subcommand, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--from", dest="source", required=True, metavar="ALIAS", help="One of MACHINE_MEMORIES.")
        parser.add_argument("--to", dest="target", required=True, metavar="ALIAS", help="Another one.")
        parser.add_argument("--prefix", metavar="P", help="Only machines whose ids begin so.")
        parser.add_argument("--batch-size", type=int, default=100, metavar="N", help="Machines in one step (100).")
        parser.add_argument(
            "--wait", type=duration_of("--wait"), default=0.0, metavar="SECONDS", help="For what is held: 30s, 5m (0)."
        )
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--dry-run", action="store_true", help="Say what would be copied, and copy nothing.")
        what.add_argument("--verify", action="store_true", help="Compare every machine, and copy nothing.")

    def handle(self, *, source: str, target: str, prefix: str | None, verbosity: int, **options: Any) -> None:
        try:
            size = option(options["batch_size"], "--batch-size", int, most=MAX_BATCH)
            prefix = None if prefix is None else machine_id(prefix, "--prefix")
            wait = _seconds(options["wait"])
            ends = memories[source], memories[target]
        except MachineMemoryError as error:
            raise CommandError(str(error)) from error
        if reason := refusal(*ends):
            raise CommandError(reason)
        work: Run
        if options["verify"]:
            work = Comparing(*ends, prefix)
        else:
            work = Copying(*ends, prefix, wait=wait, dry_run=options["dry_run"])
        try:
            with sigterm_raises(), progress(self.stderr, source, verbosity, work.count) as on_batch:
                work.run(size, on_batch)
        except MachineMemoryError as error:
            raise CommandError(f"{error} Until then: {work.done}. Run it again for the rest.") from error
        if verbosity:
            self.stdout.write(f"{source} to {target}: {work.done}.")
        if work.wrong:
            lines = [f"{quoted(id)}: {reason}" for id, reason in sorted(work.wrong.items())]
            raise CommandError(f"{len(lines):,} machines {work.fault}\n{listed(lines)}")


def _seconds(wait: Any) -> float:
    # `call_command` hands its own options over as they are.
    return duration(wait, "--wait") if isinstance(wait, str) else ttl(wait, "--wait", least=0, most=MAX_AGE)
