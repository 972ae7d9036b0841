"""Run the benchmarks one after the other: python -m benchmarks [PART...].

Each part is a module with options of its own: python -m benchmarks.storage --help
"""

from __future__ import annotations

import argparse
import platform
import runpy
import sys

PARTS = (
    "cold_start",
    "composer",
    "composer_memory",
    "stems",
    "audio",
    "formats",
    "sessions",
    "memory",
    "analysis",
    "foreign",
    "storage",
    "transfer",
    "queue",
    "api",
    "jobs_memory",
    "musicgen_cpu",
    "musicgen_clips",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parts = parser.parse_args().parts or PARTS
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    print(f"{platform.machine()}, Python {platform.python_version()}")
    for part in parts:
        print(f"\n{part}")
        sys.argv = [part]
        runpy.run_module(f"benchmarks.{part}", run_name="__main__")


if __name__ == "__main__":
    main()
