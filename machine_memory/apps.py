"""The Django app."""

from django.apps import AppConfig
from django.core import checks


class MachineMemoryConfig(AppConfig):
    name = "machine_memory"
    verbose_name = "Machine memory"

    def ready(self) -> None:
        from machine_memory.checks import check_servers, check_settings  # noqa: PLC0415  # With this, nothing waits.

        checks.register(check_settings)
        checks.register(check_servers, deploy=True)
