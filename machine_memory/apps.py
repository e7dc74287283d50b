"""The Django app."""

from django.apps import AppConfig
from django.core import checks
from django.db.models.signals import post_migrate
from django.utils.translation import gettext_lazy as _

from machine_memory.backends.database.fences import keep_fences_of_removed
from machine_memory.checks import check_servers, check_settings
from machine_memory.core.contexts import connect


class MachineMemoryConfig(AppConfig):
    name = "machine_memory"
    verbose_name = _("Machine memory")

    def ready(self) -> None:
        connect()
        checks.register(check_settings)
        checks.register(check_servers, deploy=True)
        post_migrate.connect(keep_fences_of_removed, sender=self)
