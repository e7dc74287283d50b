"""Measure side by side: ``python -m benchmarks``."""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import django
from django.utils.module_loading import import_string
from rich.console import Console

PATHS = (
    *("rivals.cycle", "rivals.peers", "workers.throughput", "growth.growth", "growth.crowd", "rivals.size"),
    *("overhead.validation", "overhead.telemetry", "overhead.timers", "workers.memory", "workers.purge", "admin.admin"),
    *("batches.batches", "claims.claims", "cluster.cluster", "capacity.capacity"),
)
PARTS = {path.partition(".")[2]: f"benchmarks.{path}" for path in PATHS}
SIZES = {
    "--quick": "try it out: the figures mean little",
    "--large": "10 million machines, and 100 thousand cycles of wear",
}


def main() -> None:
    options = _options()
    with (
        tempfile.TemporaryDirectory(prefix="machine-memory-bench-") as folder,
        Console(stderr=True).status("") as status,
    ):
        os.environ |= {"MACHINE_MEMORY_BENCH_FOLDER": folder, "DJANGO_SETTINGS_MODULE": "benchmarks.settings"}
        django.setup()
        measure = import_string("benchmarks.measure.measure")  # Here the settings find the folder.
        report = measure({part: PARTS[part] for part in options.only}, options.size, status.update)
    if options.json:
        options.json.write_text(report.json())
    if options.markdown:
        options.markdown.write_text(report.markdown())
    sys.stdout.write(report.markdown())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", type=_parts, default=PARTS, metavar="PART,…", help=f"of {', '.join(PARTS)}")
    for option, help in SIZES.items():
        parser.add_argument(option, action="store_const", const=option[2:], default="usual", dest="size", help=help)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the report there")
    return parser.parse_args()


def _parts(text: str) -> list[str]:
    parts = text.split(",")
    if unknown := set(parts) - set(PARTS):
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return parts


if __name__ == "__main__":
    main()
