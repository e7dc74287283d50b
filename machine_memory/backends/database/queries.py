"""The vocabulary of machines, and each step in the form of the ORM: it runs on every database."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from django.apps import apps
from django.db import IntegrityError, OperationalError, connections, models
from django.db.models import Case, F, Q, Value, When
from django.db.models.functions import Coalesce, Greatest
from django.db.models.lookups import Exact, GreaterThan

from machine_memory.backends.database.clock import Doubled, LeaseTime, SecondsLeft, StoreTime, waking
from machine_memory.backends.database.contention import bounded_wait, by_key, is_contention
from machine_memory.backends.database.fences import FenceClock, FirstFence
from machine_memory.backends.database.fields import ExactCharField
from machine_memory.backends.database.transactions import Atomic
from machine_memory.core.encoding import encoded
from machine_memory.core.records import Change, Claim, Criteria, Grant, Keep, Metadata, Resumption
from machine_memory.exceptions import InvalidConfiguration

LEASE = ("lease_token", "lease_owner", "lease_trace", "lease_evicted", "lease_acquired_at", "lease_expires_at")
NO_LEASE: dict[str, None] = dict.fromkeys(LEASE)
LIVE = Coalesce(GreaterThan(F("lease_expires_at"), StoreTime()), Value(False), output_field=models.BooleanField())
ASLEEP = Coalesce(GreaterThan(F("wake_at"), StoreTime()), Value(False), output_field=models.BooleanField())
EXHAUSTED = Q(wake_at=None, attempts__gt=0) & ~Q(LIVE)
NEXT_FENCE = Greatest(F("fence") + 1, FenceClock(), output_field=models.BigIntegerField())


def machine_model() -> Any:
    """Return ``MachineRecord``. Raises ``InvalidConfiguration`` where its app is not installed."""
    if not apps.is_installed("machine_memory"):
        raise InvalidConfiguration(
            'A memory in a database needs its table, and "machine_memory" is not in INSTALLED_APPS: add it, and run'
            " `manage.py migrate`."
        )
    return apps.get_model("machine_memory", "MachineRecord")


class MachineQuerySet(models.QuerySet[Any]):
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
        """Machines of this status that sleep not, that nobody has written for ``idle`` seconds, and nobody holds."""
        return self.filter(status=status, written_at__lte=StoreTime(-idle), wake_at=None).open_to(None)

    def sleeping(self) -> "MachineQuerySet":
        return self.filter(wake_at__gt=StoreTime())

    def due(self) -> "MachineQuerySet":
        return self.filter(wake_at__lte=StoreTime())

    def exhausted(self) -> "MachineQuerySet":
        """Machines that were claimed in vain, for the last time."""
        return self.filter(EXHAUSTED)

    def claimable(self, claim: Claim) -> "MachineQuerySet":
        """Machines that may be claimed, the oldest first, with ``due_at``, ``now`` and ``is_asleep``."""
        if claim.expired:
            rows, order = self.expired().filter(attempts__lt=claim.max_attempts), ["lease_expires_at"]
        else:
            rows, order = self.due().open_to(None), ["wake_at", "attempts"]  # As their index has them.
        if claim.status is not None:
            # Of one status may be many: no index of it is to serve this, see sql.
            rows = rows.filter(Exact(Coalesce("status", Value("", ExactCharField())), claim.status))
        about = {"due_at": F(order[0]), "now": StoreTime(), "is_asleep": ASLEEP}
        oldest: MachineQuerySet = rows.annotate(**about).order_by(*order)
        return oldest

    def rearm(self, claim: Claim, *, is_asleep: bool) -> None:
        """Have machines due again that are being claimed, unless a timer of theirs is still to go off."""
        again = Case(When(attempts__lt=claim.max_attempts - 1, then=Doubled(claim.ttl)))
        # The timer before the attempts: MySQL assigns in this order.
        self.update(**{} if is_asleep else {"wake_at": again}, attempts=F("attempts") + 1)

    def matching(self, criteria: Criteria) -> "MachineQuerySet":
        """Machines with state that are looked for."""
        rows = self.written()
        if criteria.status is not None:
            rows = rows.filter(status=criteria.status)
        if criteria.prefix is not None:
            rows = rows.starting_with(criteria.prefix)
        if criteria.idle is not None:
            rows = rows.filter(written_at__lte=StoreTime(-criteria.idle))
        if criteria.exhausted is not None:
            rows = rows.exhausted() if criteria.exhausted else rows.exclude(EXHAUSTED)
        return rows

    def starting_with(self, prefix: str) -> "MachineQuerySet":
        # Not LIKE: SQLite answers that without the key.
        rows, end = self.filter(pk__gte=prefix), _after_all_with(prefix)
        return rows.filter(pk__lt=end) if end else rows

    def with_lease_state(self) -> "MachineQuerySet":
        """Add ``lease_state`` (held, expired or free) and ``now``, both by the database's clock."""
        held, expired = When(lease_expires_at__gt=StoreTime(), then=Value("held")), Value("expired")
        state = Case(held, When(lease_expires_at__isnull=False, then=expired), default=Value("free"))
        rows: MachineQuerySet = self.annotate(lease_state=state, now=StoreTime())
        return rows

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
        with nullcontext() if self._skips else bounded_wait(connections[self.db]), Atomic(self.db):
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

    def acquire_each(self, asked: Mapping[str, str], *, owner: str, ttl: float, trace: str | None) -> dict[str, Grant]:
        """Grant leases of what can be had, and return them by their tokens; asked are ids by their tokens, sorted."""
        granted = {}
        for token, id in asked.items():
            try:
                grant = self.acquire(id, token=token, owner=owner, ttl=ttl, trace=trace)
            except OperationalError as error:
                if not is_contention(error):
                    raise
                if not self._skips:
                    break  # There is one writer at a time: nobody is to wait for it once for each machine.
            else:
                if grant is not None:
                    granted[token] = grant
        return granted

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
            with Atomic(self.db), bounded_wait(connections[self.db]) if brief else nullcontext():
                self.create(id=id, fence=FirstFence(), created_at=StoreTime(), **values)
        except IntegrityError:
            if not self.filter(pk=id).exists():
                raise
            return False
        return True

    def renew(self, id: str, *, token: str, ttl: float) -> bool:
        return bool(self.filter(pk=id).open_to(token).update(lease_expires_at=LeaseTime(ttl)))

    def resume(self, id: str, *, token: str, ttl: float | None) -> Resumption | None:
        """Return the machine under a live lease of this token, extended in the same transaction where it is to be."""
        with Atomic(self.db) if ttl is not None else nullcontext():
            if ttl is not None and not self.renew(id, token=token, ttl=ttl):
                return None
            columns = "data", "version", "fence", "lease_owner", SecondsLeft("lease_expires_at")
            row = self.filter(pk=id).open_to(token).values_list(*columns).first()
        return Resumption(encoded(row[0]), row[1], row[2], owner=row[3], left=float(row[4])) if row else None

    def of(self, ids: Mapping[str, str]) -> "MachineQuerySet":
        """Machines under the leases of these tokens, whose ids are given with them."""
        return self.filter(pk__in=ids.values(), lease_token__in=ids)

    def by_token(self) -> dict[str, str]:
        """Return what ``of`` takes."""
        return {str(token): id for token, id in self.order_by("pk").values_list("lease_token", "pk")}

    def unused(self) -> "MachineQuerySet":
        """Keep the rows until the transaction ends, and pass over those that somebody else works on."""
        return self.select_for_update(skip_locked=True) if self._skips else self

    @contextmanager
    def keeping(self, *, briefly: bool = False) -> Iterator[None]:
        """A transaction that keeps ``unused`` rows; on SQLite, which has no rows to keep, the whole database."""
        is_bounded = briefly and not self._skips
        with bounded_wait(connections[self.db]) if is_bounded else nullcontext(), Atomic(self.db):
            if not self._skips:
                self.filter(pk="").update(version=F("version"))  # Begun with a write, it has the database to itself.
            yield

    def by_key(self) -> AbstractContextManager[None]:
        """Have each row found by its key, and no other one looked at, see ``contention``."""
        return by_key(connections[self.db], self.model._meta.db_table)

    def renew_each(self, ids: Mapping[str, str], *, ttl: float) -> set[str]:
        """Extend the live leases of these tokens whose rows nobody uses, and return which those are."""
        with self.by_key(), Atomic(self.db):
            unused = self.of(ids).live().unused().by_token()
            self.of(unused).live().update(lease_expires_at=LeaseTime(ttl))
            return set(unused)

    def release_each(self, ids: Mapping[str, str]) -> None:
        """End the leases of these tokens whose rows nobody uses."""
        if not self.of(ids).exists():  # So that nobody meets a row that is kept for nothing.
            return
        with self.by_key(), Atomic(self.db):
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
        changes = {"data": change.data, "written_at": StoreTime(), "attempts": 0, **_labels(change.metadata)}
        changes |= _timer(change)
        with Atomic(self.db):
            row = self.filter(pk=change.id).open_to(change.token)
            if change.expected_version is not None:
                row = row.filter(version=change.expected_version)
            if not change.expected_version:
                changes = self._ancestry_if_first(change) | changes
            if change.release:
                changes |= NO_LEASE
            elif change.extend is not None:
                changes["lease_expires_at"] = LeaseTime(change.extend)
            if not row.update(**changes, version=F("version") + 1):
                return None
            version: int = self.values_list("version", flat=True).get(pk=change.id)
            return version

    def write_each(self, changes: Collection[Change]) -> set[str]:
        """Write what the lease and the version of each open, and return the ids of those."""
        with Atomic(self.db):
            return {change.id for change in changes if self.write(change) is not None}

    def write_first(self, change: Change) -> bool:
        """Insert a machine with its first state; false where it exists by now."""
        if self.filter(pk=change.id).exists():
            return False
        state = {"data": change.data, "version": 1, "written_at": StoreTime(), **_timer(change)}
        return self._add(change.id, {**state, **self._ancestry(change), **_labels(change.metadata)})

    def _ancestry(self, change: Change) -> dict[str, str | None]:
        return {"parent": change.metadata.parent, "root": self._root(change.id, change.ancestor)}

    def _root(self, id: str, parent: str | None) -> str:
        if parent is None:
            return id
        known: str | None = self.filter(pk=parent).values_list("root", flat=True).first()
        return known or parent

    def _ancestry_if_first(self, change: Change) -> dict[str, object]:
        """Set parent and root where no state was written before; to be assigned before ``version`` (MySQL's order)."""
        return {
            name: Case(When(version=0, then=Value(value, ExactCharField())), default=F(name))
            for name, value in self._ancestry(change).items()
        }

    def standing(self, id: str) -> tuple[str | None, int] | None:
        """Return the token of the live lease of ``id``, if any, and the version; ``None``: no row."""
        live_token = Case(When(lease_expires_at__gt=StoreTime(), then=F("lease_token")))
        return self.filter(pk=id).values_list(live_token, "version").first()

    def remove(self, id: str, *, token: str | None) -> bool:
        # Not delete(): where somebody listens to its signals, it selects first and deletes without the condition.
        return bool(self.filter(pk=id).open_to(token)._raw_delete(self.db))


def _after_all_with(prefix: str) -> str:
    """Return the first text that sorts after all that begin with this one; empty: there is none."""
    beginning = prefix.rstrip("\U0010ffff")
    if not beginning:
        return ""
    last = beginning[-1]
    return beginning[:-1] + ("\ue000" if last == "\ud7ff" else chr(ord(last) + 1))  # Between them are surrogates.


def _timer(change: Change) -> dict[str, object]:
    return {} if isinstance(change.wake_at, Keep) else {"wake_at": waking(change.wake_at)}


def _labels(metadata: Metadata) -> dict[str, str]:
    labels = {"status": metadata.status, "source": metadata.source, "initiator": metadata.initiator}
    return {name: value for name, value in labels.items() if value is not None}
