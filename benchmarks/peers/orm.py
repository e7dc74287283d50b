"""Locks by hand with Django's ORM, and django-pglock beside it."""

import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib import import_module
from typing import Any

from django.db import transaction
from django.utils import timezone

from benchmarks.contestants import expect
from benchmarks.models import HandMade
from benchmarks.order import advance
from benchmarks.peers.base import TTL, Peer

RECIPE = "select_for_update by hand"


class Recipe(Peer):
    """A table with the state and who works on it until when, kept with the ORM in as few queries as it takes."""

    name = RECIPE
    guard = "yes"

    def __init__(self, alias: str, state: dict[str, Any], ids: Iterable[str]) -> None:
        self._alias = alias
        HandMade.objects.using(alias).all().delete()
        HandMade.objects.using(alias).bulk_create(HandMade(id=id, state=state) for id in ids)

    def cycle(self, id: str) -> None:
        token = secrets.token_hex(16)
        rows = HandMade.objects.using(self._alias)
        with transaction.atomic(using=self._alias):
            row = rows.select_for_update().get(pk=id)
            expect(row.locked_until is None or row.locked_until <= timezone.now())
            rows.filter(pk=id).update(locked_by=token, locked_until=timezone.now() + timedelta(seconds=TTL))
        state = rows.get(pk=id).state
        advance(state)
        expect(rows.filter(pk=id, locked_by=token).update(state=state))
        expect(rows.filter(pk=id, locked_by=token).update(locked_by=None, locked_until=None))

    def close(self) -> None:
        HandMade.objects.using(self._alias).all().delete()


class WaryRecipe(Recipe):
    """The same, where every change looks at the row first."""

    name = f"{RECIPE}, for each change"

    def cycle(self, id: str) -> None:
        token = secrets.token_hex(16)
        with self._row(id) as row:
            expect(row.locked_until is None or row.locked_until <= timezone.now())
            row.locked_by, row.locked_until = token, timezone.now() + timedelta(seconds=TTL)
        state = HandMade.objects.using(self._alias).get(pk=id).state
        advance(state)
        with self._row(id) as row:
            expect(row.locked_by == token)
            row.state = state
        with self._row(id) as row:
            expect(row.locked_by == token)
            row.locked_by = row.locked_until = None

    @contextmanager
    def _row(self, id: str) -> Iterator[HandMade]:
        with transaction.atomic(using=self._alias):
            row = HandMade.objects.using(self._alias).select_for_update().get(pk=id)
            yield row
            row.save()


class AdvisoryLock(Peer):
    """django-pglock, and a model that is saved."""

    name = "django-pglock, model save"
    guard = "no"

    def __init__(self, alias: str, state: dict[str, Any], ids: Iterable[str]) -> None:
        self._pglock = import_module("pglock")
        self._alias = alias
        self._ids = [f"advisory-{id}" for id in ids]
        HandMade.objects.using(alias).bulk_create(HandMade(id=id, state=state) for id in self._ids)

    def cycle(self, id: str) -> None:
        with self._pglock.advisory(id, timeout=0, using=self._alias) as acquired:
            expect(acquired)
            row = HandMade.objects.using(self._alias).get(pk=f"advisory-{id}")
            advance(row.state)
            row.save()

    def close(self) -> None:
        HandMade.objects.using(self._alias).filter(pk__in=self._ids).delete()
