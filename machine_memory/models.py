"""One row per machine, its state and its lease side by side: one statement checks the one and changes the other."""

from collections.abc import Mapping
from contextlib import nullcontext

from django.apps import apps
from django.db import IntegrityError, connections, models, transaction
from django.db.models import Case, F, Q, Value, When
from django.db.models.functions import Coalesce, Greatest
from django.db.models.lookups import GreaterThan
from django.utils.translation import gettext_lazy as _

from machine_memory.clock import LeaseTime, StoreTime
from machine_memory.contention import bounded_wait
from machine_memory.encoding import encoded
from machine_memory.exceptions import InvalidConfiguration
from machine_memory.fences import FenceClock, FirstFence
from machine_memory.fields import ExactCharField, PartialIndex, StateField
from machine_memory.records import Change, Grant, Metadata
from machine_memory.validation import MAX_ID_LENGTH, MAX_LABEL_LENGTH, visible

if not apps.is_installed("machine_memory"):
    raise InvalidConfiguration(
        'A memory in a database needs its table, and "machine_memory" is not in INSTALLED_APPS: add it, and run'
        " `manage.py migrate`."
    )

NO_LEASE = {
    "lease_token": None,
    "lease_owner": None,
    "lease_trace": None,
    "lease_evicted": None,
    "lease_acquired_at": None,
    "lease_expires_at": None,
}
LIVE = Coalesce(GreaterThan(F("lease_expires_at"), StoreTime()), Value(False), output_field=models.BooleanField())
NEXT_FENCE = Greatest(F("fence") + 1, FenceClock(), output_field=models.BigIntegerField())


class MachineQuerySet(models.QuerySet["MachineRecord"]):
    """The vocabulary of machines. Every comparison of time is the database's."""

    def held(self) -> "MachineQuerySet":
        return self.filter(lease_expires_at__gt=StoreTime())

    def live(self) -> "MachineQuerySet":
        """As ``held``, of machines that are found by their keys: no index of leases serves it, see sql."""
        return self.filter(LIVE)

    def expired(self, *, for_seconds: float = 0) -> "MachineQuerySet":
        return self.filter(lease_expires_at__lte=StoreTime(-for_seconds))

    def free(self) -> "MachineQuerySet":
        return self.filter(lease_expires_at=None)

    def written(self) -> "MachineQuerySet":
        return self.filter(version__gt=0)

    def retired(self, status: str, *, idle: float) -> "MachineQuerySet":
        """Machines of this status that nobody has written for ``idle`` seconds, and nobody holds."""
        return self.filter(status=status, written_at__lte=StoreTime(-idle)).open_to(None)

    def starting_with(self, prefix: str) -> "MachineQuerySet":
        # Not LIKE: SQLite answers that without the key.
        return self.filter(pk__gte=prefix, pk__lte=prefix + chr(0x10FFFF))

    def with_lease_state(self) -> "MachineQuerySet":
        """Add ``lease_state`` (held, expired or free) and ``now``, both by the database's clock."""
        held, expired = When(lease_expires_at__gt=StoreTime(), then=Value("held")), Value("expired")
        state = Case(held, When(lease_expires_at__isnull=False, then=expired), default=Value("free"))
        return self.annotate(lease_state=state, now=StoreTime())

    def children_of(self, id: str) -> "MachineQuerySet":
        return self.filter(parent=id)

    def tree_of(self, root: str) -> "MachineQuerySet":
        # The root itself is found by its key, so that the index of roots need not hold every machine without a parent.
        return self.written().filter(Q(pk=root, root=root) | Q(root=root, parent__isnull=False))

    def open_to(self, token: str | None) -> "MachineQuerySet":
        """Machines that may be changed: by the holder of ``token``, or without one where no lease is live."""
        return self.filter(~Q(LIVE)) if token is None else self.live().filter(lease_token=token)

    def state(self, id: str) -> object:
        return self.filter(pk=id).values_list("data", flat=True).first()

    def acquire(self, id: str, *, token: str, owner: str, ttl: float, trace: str | None) -> Grant | None:
        """Grant a lease, in a transaction of its own.

        ``None``: somebody else holds the machine, or works on its row right now.
        """
        with nullcontext() if self._skips else bounded_wait(connections[self.db]), transaction.atomic(using=self.db):
            lease = {
                "lease_token": token,
                "lease_owner": owner,
                "lease_trace": trace,
                "lease_acquired_at": LeaseTime(),
                "lease_expires_at": LeaseTime(ttl),
            }
            taken = self._take(id, lease)
            if not taken and not self.filter(pk=id).exists() and self._add(id, {}, brief=True):
                taken = self._take(id, lease)
            return self.granted(id, token=token) if taken else None

    def granted(self, id: str, *, token: str) -> Grant | None:
        row = self.filter(pk=id, lease_token=token).values_list("data", "version", "fence", "lease_evicted").first()
        return Grant(encoded(row[0]), *row[1:]) if row else None

    @property
    def _skips(self) -> bool:
        return bool(connections[self.db].features.has_select_for_update_skip_locked)

    def _take(self, id: str, lease: Mapping[str, object]) -> bool:
        available = self.filter(pk=id).open_to(None)
        # SQLite has no rows to skip, and there a transaction that reads first may not write once another has written.
        if self._skips and not available.select_for_update(skip_locked=True).values_list("pk"):
            return False
        # First what the lease before leaves: MySQL assigns in this order.
        evicted = Case(When(lease_token__isnull=False, then=Coalesce("lease_trace", Value("", ExactCharField()))))
        return bool(available.update(fence=NEXT_FENCE, lease_evicted=evicted, **lease))

    def _add(self, id: str, values: Mapping[str, object], *, brief: bool = False) -> bool:
        """Insert the row of ``id``; false where another transaction has done so."""
        try:
            with transaction.atomic(using=self.db), bounded_wait(connections[self.db]) if brief else nullcontext():
                self.create(id=id, fence=FirstFence(), created_at=StoreTime(), **values)
        except IntegrityError:
            if not self.filter(pk=id).exists():
                raise
            return False
        return True

    def renew(self, id: str, *, token: str, ttl: float) -> bool:
        return bool(self.filter(pk=id).open_to(token).update(lease_expires_at=LeaseTime(ttl)))

    def of(self, ids: Mapping[str, str]) -> "MachineQuerySet":
        """Machines under the leases of these tokens, whose ids are given with them."""
        return self.filter(pk__in=ids.values(), lease_token__in=ids)

    def by_token(self) -> dict[str, str]:
        """Return what ``of`` takes."""
        return {str(token): id for token, id in self.order_by("pk").values_list("lease_token", "pk")}

    def unused(self) -> "MachineQuerySet":
        """Keep the rows until the transaction ends, and pass over those that somebody else works on."""
        return self.select_for_update(skip_locked=True) if self._skips else self

    def renew_each(self, ids: Mapping[str, str], *, ttl: float) -> set[str]:
        """Extend the live leases of these tokens whose rows nobody uses, and return which those are."""
        with transaction.atomic(using=self.db):
            unused = self.of(ids).live().unused().by_token()
            self.of(unused).live().update(lease_expires_at=LeaseTime(ttl))
            return set(unused)

    def release_each(self, ids: Mapping[str, str]) -> None:
        """End the leases of these tokens whose rows nobody uses."""
        if not self.of(ids).exists():  # So that nobody meets a row that is kept for nothing.
            return
        with transaction.atomic(using=self.db):
            self.of(self.of(ids).unused().by_token()).update(**NO_LEASE)

    def release(self, id: str, *, token: str) -> bool:
        return bool(self.filter(pk=id, lease_token=token).update(**NO_LEASE))

    def force_release(self, id: str, *, fence: int | None = None) -> bool:
        row = self.filter(pk=id, lease_token__isnull=False)
        if fence is not None:
            row = row.filter(fence=fence)
        return bool(row.update(fence=NEXT_FENCE, **NO_LEASE))

    def write(self, change: Change) -> int | None:
        """Write and return the new version; ``None``: no row, or not one that token and version open."""
        changes = {"data": change.data, "written_at": StoreTime(), **_labels(change.metadata)}
        with transaction.atomic(using=self.db):
            row = self.filter(pk=change.id).open_to(change.token)
            if change.expected_version is not None:
                row = row.filter(version=change.expected_version)
            if not change.expected_version:
                changes = self._ancestry_if_first(change.id, change.metadata.parent) | changes
            if change.release:
                changes |= NO_LEASE
            elif change.extend is not None:
                changes["lease_expires_at"] = LeaseTime(change.extend)
            if not row.update(**changes, version=F("version") + 1):
                return None
            return self.values_list("version", flat=True).get(pk=change.id)

    def write_first(self, change: Change) -> bool:
        """Insert a machine with its first state; false where it exists by now."""
        if self.filter(pk=change.id).exists():
            return False
        parent = change.metadata.parent
        state = {"data": change.data, "version": 1, "written_at": StoreTime()}
        ancestry = {"parent": parent, "root": self._root(change.id, parent)}
        return self._add(change.id, {**state, **ancestry, **_labels(change.metadata)})

    def _root(self, id: str, parent: str | None) -> str:
        if parent is None:
            return id
        known: str | None = self.filter(pk=parent).values_list("root", flat=True).first()
        return known or parent

    def _ancestry_if_first(self, id: str, parent: str | None) -> dict[str, object]:
        """Set parent and root where no state was written before; to be assigned before ``version`` (MySQL's order)."""
        ancestry = {"parent": parent, "root": self._root(id, parent)}
        return {
            name: Case(When(version=0, then=Value(value, ExactCharField())), default=F(name))
            for name, value in ancestry.items()
        }

    def standing(self, id: str) -> tuple[str | None, int] | None:
        """Return the token of the live lease of ``id``, if any, and the version; ``None``: no row."""
        live_token = Case(When(lease_expires_at__gt=StoreTime(), then=F("lease_token")))
        return self.filter(pk=id).values_list(live_token, "version").first()

    def remove(self, id: str, *, token: str | None) -> bool:
        # Not delete(): where somebody listens to its signals, it selects first and deletes without the condition.
        return bool(self.filter(pk=id).open_to(token)._raw_delete(self.db))


def _labels(metadata: Metadata) -> dict[str, str]:
    labels = {"status": metadata.status, "source": metadata.source, "initiator": metadata.initiator}
    return {name: value for name, value in labels.items() if value is not None}


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
