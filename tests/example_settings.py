"""Settings of the example project, on a database of the test that runs it."""

import os

from example_project.settings import *  # noqa: F403
from example_project.settings import DATABASES

DATABASES["default"]["NAME"] = os.environ["EXAMPLE_DATABASE"]
