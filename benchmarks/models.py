"""What people write who have no such package: the state, and who works on it until when."""

from typing import ClassVar

from django.db import models


class HandMade(models.Model):
    id = models.CharField(max_length=255, primary_key=True)
    state = models.JSONField()
    locked_by = models.CharField(max_length=32, null=True)
    locked_until = models.DateTimeField(null=True)

    objects: ClassVar[models.Manager["HandMade"]] = models.Manager()

    def __str__(self) -> str:
        return self.id
