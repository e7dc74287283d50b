"""The Django app."""

from typing import Any

from django.apps import AppConfig
from django.core import checks
from django.db.models.signals import post_migrate


class MachineMemoryConfig(AppConfig):
    name = "machine_memory"
    verbose_name = "Machine memory"

    def ready(self) -> None:
        from machine_memory import contexts  # noqa: PLC0415
        from machine_memory.checks import check_servers, check_settings  # noqa: PLC0415  # With this, nothing waits.

        contexts.connect()
        post_migrate.connect(remember_fences, sender=self)
        checks.register(check_settings)
        checks.register(check_servers, deploy=True)


def remember_fences(*, using: str, **kwargs: Any) -> None:
    """Have SQLite remember the fences of removed machines, also where its table was made without a migration."""
    from machine_memory.models import MachineRecord  # noqa: PLC0415  # There are none when this module is imported.

    MachineRecord.objects.using(using).remember_fences()
