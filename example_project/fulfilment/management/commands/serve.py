"""Show the admin while workers hold orders."""

import signal
import socket
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich.console import Console

from example_project.fulfilment.demo.store import store
from example_project.fulfilment.shop.login import NAME, renew_password
from example_project.fulfilment.shop.orders import place
from example_project.fulfilment.shop.workers import at_work
from machine_memory import LockDenied, memories, memory

HOST = "127.0.0.1"
ALONE = 10
"""Seconds for which a server that died keeps the next one waiting."""


class Command(BaseCommand):
    help = "Show the admin, with a login and with workers that hold orders for as long as it runs."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--port", type=int, default=8000, help="Where the server listens (8000).")

    def handle(self, *, port: int, **options: Any) -> None:
        _check(port)
        for ending in (signal.SIGINT, signal.SIGTERM):
            signal.signal(ending, signal.default_int_handler)  # Either gives the leases back.
        call_command("migrate", verbosity=0, interactive=False)
        if settings.TRACE:
            from example_project.tracing import instrument  # noqa: PLC0415  # It needs what TRACE=1 installs.

            instrument()
        try:
            # In the database, also with MEMORY=redis, as the login is there. It is never written: the admin shows such
            # a machine, too.
            with (
                memories["inbox"].lease("serve", ttl=ALONE, keep_alive=True),
                store(Console(highlight=False)),
            ):
                place(memory)
                password = renew_password()
                self.stdout.write(f"For this example alone, log in as {NAME} with the password {password}")
                with at_work(memory, self.stdout.write):
                    call_command("runserver", f"{HOST}:{port}", use_reloader=False)
        except LockDenied:
            raise CommandError(f"The admin is shown already, or was until {ALONE} seconds ago.") from None


def _check(port: int) -> None:
    # The server itself would end the process at once, and leave the leases of the workers behind.
    try:
        socket.create_server((HOST, port)).close()
    except (OSError, OverflowError) as error:
        raise CommandError(f"The port {port} cannot be used: {error}. Choose another by --port.") from None
