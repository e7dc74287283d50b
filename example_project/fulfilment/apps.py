"""The Django app."""

from django.apps import AppConfig


class FulfilmentConfig(AppConfig):
    name = "example_project.fulfilment"
