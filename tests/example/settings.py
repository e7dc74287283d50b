"""Settings of the example project, on a database of the test that runs it and under a prefix of the tests in Redis."""

import os

from example_project.settings import *  # noqa: F403
from example_project.settings import CACHES, DATABASES

DATABASES["default"]["NAME"] = os.environ["EXAMPLE_DATABASE"]
CACHES["default"]["KEY_PREFIX"] = os.environ["EXAMPLE_KEY_PREFIX"]
