"""Windows onto the inbox and the kills of the demo."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from example_project.fulfilment.models import Delivery, Kill


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # It cannot be subscripted at run time.
    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Delivery)
class DeliveryAdmin(ReadOnlyAdmin):
    list_display = ["order", "name", "outcome", "version", "worker", "denied", "handled_at"]
    list_filter = ["outcome", "name", "worker"]
    ordering = ["order", "handled_at"]
    search_fields = ["order"]


@admin.register(Kill)
class KillAdmin(ReadOnlyAdmin):
    list_display = ["order", "version", "step", "worker", "left"]
    list_filter = ["step"]
    ordering = ["order"]
