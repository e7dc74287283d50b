"""Settings of the example project with Django Tasks, in a database of the test."""

import os

from example_project.settings import *  # noqa: F403
from example_project.settings import DATABASES, INSTALLED_APPS

DATABASES["default"]["NAME"] = os.environ["EXAMPLE_DATABASE"]
INSTALLED_APPS.append("django_tasks_db")
TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
