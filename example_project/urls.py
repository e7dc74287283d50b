"""The admin, and where events come in."""

from django.contrib import admin
from django.urls import path
from django.views.generic import RedirectView

from example_project.fulfilment.views import events

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:index")),
    path("admin/", admin.site.urls),
    path("events/", events),
]
