"""Time and memory of moving a database: python -m benchmarks.transfer --help."""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.storage import fill
from services import storage

MOVER = (
    "import sys; from services.storage import move_database; from benchmarks.transfer import peak; "
    "move = move_database(sys.argv[2], sys.argv[1]); print(move.seconds, move.rows, peak())"
)


def peak() -> float:
    """Return the peak memory of this process, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def run(rows: int, target_url: str, source_url: str | None = None) -> None:
    """Fill a database, and move it in a process of its own."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        source = source_url or f"sqlite:///{folder}/benchmark.db"
        if source_url is None:
            storage.init_db(source)
            fill(rows)
            storage.close_db()
        done = subprocess.run(
            [sys.executable, "-c", MOVER, source, target_url],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    seconds, moved, memory = map(float, done.stdout.split())
    print(f"{'moved':28} {moved:,.0f} rows in {seconds:.1f} s")
    print(f"{'rows a second':28} {moved / seconds:,.0f}")
    print(f"{'peak memory':28} {memory:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure moving SQLite to another database.")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument(
        "--to", metavar="URL", help="an EMPTY database; default: an SQLite file, deleted after"
    )
    parser.add_argument("--source", metavar="URL", help="a full one, instead of a new SQLite file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        run(options.rows, options.to or f"sqlite:///{folder}/target.db", options.source)


if __name__ == "__main__":
    main()
