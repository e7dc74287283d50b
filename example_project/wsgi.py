"""The project for a WSGI server."""

import os

from django.conf import settings
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "example_project.settings")

application = get_wsgi_application()
if settings.TRACE:
    from example_project.tracing import instrument  # It needs what TRACE=1 installs.

    instrument()
