"""Where the tables of the tests are."""

from typing import Any


class OnlyMachinesElsewhere:
    """Keep users, sessions and the admin's log in the default database: every other one is emptied faster without."""

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool | None:
        return None if db == "default" or app_label == "machine_memory" else False
