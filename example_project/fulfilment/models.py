"""The inbox of events, delivered at least once; and the deaths that the demo plans for its workers."""

from django.db import models
from django.db.models import F
from django.db.models.functions import Now

from example_project.fulfilment.events import Event, Outcome, Result, Step


class DeliveryQuerySet(models.QuerySet["Delivery"]):
    def waiting(self) -> "DeliveryQuerySet":
        return self.filter(handled_at=None)

    def acknowledged(self) -> "DeliveryQuerySet":
        return self.exclude(handled_at=None)

    def payments_that_wait(self, orders: list[str]) -> set[str]:
        """Return for which of these orders one does."""
        return set(self.waiting().filter(order__in=orders, name="pay").values_list("order", flat=True))

    def unpaid(self) -> set[str]:
        """Return the orders whose payment never comes."""
        return set(self.values_list("order", flat=True)) - set(self.filter(name="pay").values_list("order", flat=True))

    def acknowledge(self, delivery: "Delivery", result: Result, *, worker: str) -> None:
        """Note what a delivery came to, so that it does not come again."""
        rows = self.filter(pk=delivery.pk)
        if result.outcome == Outcome.DUPLICATE:
            # Two workers may have had the same delivery in hand: the one that wrote has the last word.
            rows = rows.waiting()
        rows.update(handled_at=Now(), outcome=result.outcome, version=result.version, worker=worker)

    def send_back(self, delivery: "Delivery") -> None:
        """Leave a delivery waiting, and count that its lock was denied."""
        self.filter(pk=delivery.pk).update(denied=F("denied") + 1)


class Delivery(models.Model):
    """One delivery of one event; the next one of the same event is another row."""

    event = models.CharField(max_length=100, help_text="The id of the event.")
    order = models.CharField(max_length=100)
    name = models.CharField(max_length=20)
    denied = models.PositiveIntegerField(default=0, help_text="How often it was sent back, as the lock was denied.")
    handled_at = models.DateTimeField(null=True, help_text="Null while it waits.")
    outcome = models.CharField(max_length=20, choices=Outcome, blank=True)
    version = models.PositiveIntegerField(null=True, help_text="The version that the machine had then.")
    worker = models.CharField(max_length=20, blank=True)

    objects = DeliveryQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "deliveries"

    def __str__(self) -> str:
        return self.event

    def as_event(self) -> Event:
        return Event(id=self.event, subject=self.order, name=self.name)


class KillQuerySet(models.QuerySet["Kill"]):
    def planned(self) -> "KillQuerySet":
        return self.filter(left__isnull=True)

    def done(self) -> "KillQuerySet":
        return self.exclude(left__isnull=True)

    def claim(self, kill: "Kill", *, left: dict[str, int], worker: str) -> bool:
        """Note who dies, with which leases in hand; false where somebody else has done so already."""
        return bool(self.planned().filter(pk=kill.pk).update(left=left, worker=worker))


class Kill(models.Model):
    """A planned death: the first worker that takes this step with an order at this version, or a later one, is killed.

    Every order is locked at each version and committed as the next one. Where a worker that dies for another order
    takes the occasion along, the delivery comes again, and so does the occasion: each plan comes true.
    """

    order = models.CharField(max_length=100)
    version = models.PositiveIntegerField()
    step = models.CharField(max_length=20, choices=Step)
    left = models.JSONField(
        null=True, help_text="The fences of the leases that the dead worker held, by order; null while planned."
    )
    worker = models.CharField(max_length=20, blank=True)

    objects = KillQuerySet.as_manager()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["order", "version", "step"], name="one_kill_each")]

    def __str__(self) -> str:
        return f"{self.order} at version {self.version}, {Step(self.step).label}"
