"""One row per machine, its state and its lease side by side: one statement checks the one and changes the other."""

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from machine_memory.backends.database.fields import ExactCharField, PartialIndex, StateField
from machine_memory.backends.database.queries import MachineQuerySet
from machine_memory.core.validation import MAX_ID_LENGTH, MAX_LABEL_LENGTH, visible


class MachineRecord(models.Model):
    """A machine: what it last wrote, and who may write next."""

    id = ExactCharField(max_length=MAX_ID_LENGTH, primary_key=True)
    data = StateField(null=True, help_text="The state; null until the first write.")
    version = models.BigIntegerField(default=0, help_text="Counts the accepted writes.")
    status = ExactCharField(max_length=MAX_LABEL_LENGTH, null=True)
    source = ExactCharField(max_length=MAX_LABEL_LENGTH, null=True)
    initiator = ExactCharField(max_length=MAX_LABEL_LENGTH, null=True)
    parent = ExactCharField(max_length=MAX_ID_LENGTH, null=True, help_text="The machine that started this one.")
    root = ExactCharField(max_length=MAX_ID_LENGTH, null=True, help_text="The first machine of the tree.")
    fence = models.BigIntegerField(help_text="The number of the latest lease; it only ever grows.")
    lease_token = ExactCharField(max_length=32, null=True)
    lease_owner = ExactCharField(max_length=MAX_LABEL_LENGTH, null=True)
    lease_trace = ExactCharField(max_length=55, null=True, help_text="Of the holder, as W3C's traceparent.")
    lease_evicted = ExactCharField(
        max_length=55, null=True, help_text="The trace of the expired lease that this one took over, or empty."
    )
    lease_acquired_at = models.DateTimeField(null=True)
    lease_expires_at = models.DateTimeField(null=True)
    wake_at = models.DateTimeField(null=True, help_text="When the machine is due.")
    attempts = models.IntegerField(default=0, db_default=0, help_text="Counts the claims since the latest write.")
    created_at = models.DateTimeField()
    written_at = models.DateTimeField(null=True)

    objects = MachineQuerySet.as_manager()

    class Meta:
        verbose_name = _("machine")
        verbose_name_plural = _("machines")
        default_permissions = ("view",)
        permissions = [
            ("view_machine_data", _("Can view the state of machines")),
            ("force_unlock", _("Can force the release of leases")),
        ]
        # Every cycle changes the expiry, so each index gets a new entry each time, unless it leaves the row out. WAL of
        # a cycle on PostgreSQL 15, 20 thousand machines: 6.7 kB without these, 7.1 kB with them (the status: 0.2 kB),
        # 7.5 kB if they held every row; 10.7 kB if the first migration did not leave a fifth of each page free. The
        # pace is the same.
        indexes = [
            PartialIndex(fields=["lease_expires_at"], name="machine_lease", where=Q(lease_expires_at__isnull=False)),
            PartialIndex(fields=["status", "id"], name="machine_status", where=Q(status__isnull=False)),
            PartialIndex(fields=["parent"], name="machine_parent", where=Q(parent__isnull=False)),
            PartialIndex(fields=["root"], name="machine_root", where=Q(parent__isnull=False)),
            # Those that sleep, and those that were claimed in vain too often: the others have attempts alone.
            PartialIndex(
                fields=["wake_at", "attempts"], name="machine_wake", where=Q(wake_at__isnull=False) | Q(attempts__gt=0)
            ),
        ]

    def __str__(self) -> str:
        return visible(self.id)


class HeldLock(MachineRecord):
    """A machine that somebody locked, as the admin lists it."""

    class Meta:
        proxy = True
        verbose_name = _("held lock")
        verbose_name_plural = _("held locks")
        default_permissions = ()
