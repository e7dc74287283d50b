"""Measure side by side: ``python -m benchmarks``."""

import argparse
import os
import sys
import tempfile
from pathlib import Path

PARTS = (
    *("cycle", "peers", "throughput", "growth", "crowd", "size", "validation", "telemetry", "memory", "purge", "admin"),
)


def main() -> None:
    options = _parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="machine-memory-bench-") as folder:
        os.environ["MACHINE_MEMORY_BENCH_FOLDER"] = folder
        os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.settings"
        import django  # noqa: PLC0415  # Here the settings find the folder.

        django.setup()

        from benchmarks.run import measure  # noqa: PLC0415

        report = measure(options.only, seconds=options.seconds, quick=options.quick, large=options.large)
    if options.json:
        options.json.write_text(report.json())
    if options.markdown:
        options.markdown.write_text(report.markdown())
    sys.stdout.write(report.markdown())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", type=_parts, default=PARTS, metavar="PART,…", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--seconds", type=float, default=2, help="how long a comparison is measured (2)")
    parser.add_argument("--quick", action="store_true", help="try it out: the figures mean little")
    parser.add_argument("--large", action="store_true", help="10 million machines, and 100 thousand cycles of wear")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the report there")
    return parser


def _parts(text: str) -> list[str]:
    parts = text.split(",")
    if unknown := set(parts) - set(PARTS):
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return parts


if __name__ == "__main__":
    main()
