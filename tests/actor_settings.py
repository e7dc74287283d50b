"""Settings of the processes that tests start: the databases are those of the test that started them."""

import json
import os

from tests.settings import *  # noqa: F403

DATABASES = json.loads(os.environ["MACHINE_MEMORY_TEST_DATABASES"])
