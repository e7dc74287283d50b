"""The large forms of what the tests do in small: ``python -m tests.core.measure --help``."""

import argparse
import os
import sys


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.core.measure", description=__doc__)
    parser.add_argument("--cycles", type=int, default=2000, help="interrupted cycles of each store")
    parser.add_argument("--reads", type=int, default=20_000, help="interrupted reads of each server")
    parser.add_argument("--locks", type=int, default=100_000, help="locks without unlock in each store")
    parser.add_argument("--store", action="append", help="simple, sqlite, postgresql, mariadb, redis; all by default")
    options = parser.parse_args()
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    import django
    from django.test.runner import DiscoverRunner

    django.setup()
    runner = DiscoverRunner(verbosity=0, interactive=False)
    kept = runner.setup_databases()
    try:
        for name in options.store or ["simple", "sqlite", "postgresql", "mariadb", "redis"]:
            _report(name, "interrupts.cycles", options.cycles)
            if name not in ("simple", "sqlite"):
                _report(name, "interrupts.reads", options.reads)
            _report(name, "unlocked.locks", options.locks)
    finally:
        runner.teardown_databases(kept)


def _report(name: str, what: str, times: int) -> None:
    from tests.actor import Actor
    from tests.contract.stores import named

    if times:
        with Actor(named(name).alias) as actor:
            figures = actor("run", f"tests.core.{what}", name, times)
        sys.stdout.write(f"{name}, {what}: " + ", ".join(f"{key} {value}" for key, value in figures.items()) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
