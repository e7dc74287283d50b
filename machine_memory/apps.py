"""The Django app."""

from django.apps import AppConfig


class MachineMemoryConfig(AppConfig):
    name = "machine_memory"
    verbose_name = "Machine memory"
