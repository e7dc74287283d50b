"""The Django app."""

from django.apps import AppConfig
from django.core import checks
from django.db.models.signals import post_migrate


class MachineMemoryConfig(AppConfig):
    name = "machine_memory"
    verbose_name = "Machine memory"

    def ready(self) -> None:
        from machine_memory.checks import check_servers, check_settings  # noqa: PLC0415  # With this, nothing waits.
        from machine_memory.contexts import connect  # noqa: PLC0415
        from machine_memory.fences import keep_fences_of_removed  # noqa: PLC0415

        connect()
        checks.register(check_settings)
        checks.register(check_servers, deploy=True)
        post_migrate.connect(keep_fences_of_removed, sender=self)
