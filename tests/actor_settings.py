"""Settings of the processes that tests start: the databases are those of the test that started them."""

import json
import os

from tests.settings import *  # noqa: F403
from tests.settings import MACHINE_MEMORIES

# Of the admin and what it needs, each process would pay for the import.
INSTALLED_APPS = ["machine_memory"]
ROOT_URLCONF = ""
DATABASES = json.loads(os.environ["MACHINE_MEMORY_TEST_DATABASES"])
MACHINE_MEMORIES = {**{alias: {"OPTIONS": {"using": alias}} for alias in DATABASES}, **MACHINE_MEMORIES}
