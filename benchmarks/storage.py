"""Speed and size of the database at a million rows: python -m benchmarks.storage --help."""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any

from services import storage
from services.storage.models import dump_metadata

DIFFERENT_PROMPTS = 5000
PAGE = 100
COLUMNS = (
    "id, prompt, model_name, model_version, duration_seconds, sample_rate, channels, file_path, "
    "file_size_bytes, status, created_at, completed_at, generation_time_seconds, metadata, "
    "prompt_id, attempts, file_sha256"
)
MODELS = ("composer", "musicgen-small", "musicgen-medium", "musicgen-stereo")
GENRES = ("lo-fi", "trap", "house", "techno", "ambient", "jazz", "drum and bass", "synthwave")
MOODS = ("calm", "dark", "bright", "dusty", "dreamy", "angry", "hopeful", "cold", "warm", "slow")
INSTRUMENTS = ("piano", "808 bass", "strings", "guitar", "pads", "brushed drums", "vibraphone")


INSERTED = {
    "engine": "composer",
    "licence": "CC0-1.0",
    "requested": {"genre": "lo-fi", "tempo_bpm": 82.0, "instruments": ["piano"]},
}


@dataclass(frozen=True)
class Measured:
    """One line of the result."""

    name: str
    figure: str
    target: str


def prompt_pool(chance: random.Random) -> list[str]:
    prompts = []
    for number in range(DIFFERENT_PROMPTS):
        noun = "beat" if number % 2 else "loop"
        rare = " with theremin" if number == 1234 else ""
        prompts.append(
            f"{chance.choice(MOODS)} {chance.choice(GENRES)} {noun} "
            f"with {chance.choice(INSTRUMENTS)} and {chance.choice(INSTRUMENTS)} "
            f"at {60 + number % 120} BPM, take {number}{rare}"
        )
    return prompts


def metadata_of(chance: random.Random) -> dict[str, Any]:
    """Return metadata as the composer writes it."""
    genre, tempo = chance.choice(GENRES), 60.0 + chance.randrange(120)
    return {
        "seed": chance.getrandbits(31),
        "engine": "composer",
        "engine_version": "1",
        "licence": "CC0-1.0",
        "bpm": tempo,
        "key": chance.choice(("C minor", "F# major", "A minor", "C# minor")),
        "bars": chance.randrange(4, 33),
        "genre": genre,
        "requested": {
            "genre": genre,
            "tempo_bpm": tempo,
            "instruments": chance.sample(INSTRUMENTS, chance.randrange(1, 3)),
        },
        "target_lufs": -16.0,
        "integrated_lufs": -16.0,
        "true_peak_dbtp": -1.0 - round(chance.random(), 2),
    }


def make_rows(count: int) -> Iterator[tuple[Any, ...]]:
    chance = random.Random(1)
    prompts = prompt_pool(chance)
    pool = [dump_metadata(metadata_of(chance)) for _ in prompts]
    start = datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=count + 60)
    statuses = ("completed",) * 94 + ("failed",) * 3 + ("cancelled",) * 3
    for number in range(count):
        row_id = str(uuid.UUID(int=chance.getrandbits(128), version=4))
        place = int(chance.random() ** 2 * DIFFERENT_PROMPTS)
        created = start + timedelta(seconds=number, microseconds=chance.randrange(1_000_000))
        status = chance.choice(statuses) if number < count - 50 else "pending"
        done = status == "completed"
        yield (
            row_id, prompts[place], MODELS[place % 4], "1", 16.0, 48000, 2,
            f"{created:%Y/%m/%d}/{row_id}.wav", 2_048_044 if done else None, status,
            created.isoformat(" ", "microseconds"),
            None if status == "pending" else created.isoformat(" ", "microseconds"),
            2.4 if done else None, pool[place], place + 1, 1,
            chance.randbytes(32) if done else None,
        )  # fmt: skip


def fill(count: int) -> float:
    """Write `count` rows in one transaction and return the seconds it took."""
    start = time.perf_counter()
    with storage.get_session() as session:
        for prompt in prompt_pool(random.Random(1)):
            storage.track_prompt_usage(session, prompt)
        connection = session.connection()
        driver: Any = connection.connection.driver_connection
        if connection.dialect.name == "sqlite":
            marks = ", ".join("?" * 17)
            driver.executemany(
                f"INSERT INTO generations ({COLUMNS}) VALUES ({marks})", make_rows(count)
            )
        else:
            with driver.cursor().copy(f"COPY generations ({COLUMNS}) FROM STDIN") as copy:
                for row in make_rows(count):
                    copy.write_row(row)
    with storage.get_engine().connect() as connection:
        if connection.dialect.name == "postgresql":  # as its autovacuum would; SQLite never does
            quiet = connection.execution_options(isolation_level="AUTOCOMMIT")
            quiet.exec_driver_sql("VACUUM (ANALYZE) generations")
    return time.perf_counter() - start


def times(action: Callable[[], object], rounds: int) -> list[float]:
    """Return the milliseconds of each round, after one warm-up."""
    action()
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        action()
        taken.append((time.perf_counter() - start) * 1000)
    return sorted(taken)


def spread(taken: list[float]) -> str:
    p95 = taken[min(len(taken) - 1, round(len(taken) * 0.95))]
    return f"p50 {statistics.median(taken):.2f} ms, p95 {p95:.2f} ms"


def insert_one() -> None:
    with storage.get_session() as session:
        storage.create_generation(
            session, f"calm lo-fi beat at {random.randrange(4000)} BPM", "composer", 16.0, 48000, 2,
            f"2026/11/21/{uuid.uuid4()}.wav", "1", INSERTED,
        )  # fmt: skip


def fsync_times(rounds: int) -> list[float]:
    """Return the milliseconds one page takes to reach the disk: no commit can be faster."""
    with tempfile.NamedTemporaryFile(dir=Path.cwd()) as file:

        def write() -> None:
            os.pwrite(file.fileno(), b"x" * 4096, 0)
            os.fdatasync(file.fileno())

        return times(write, rounds)


def reading(action: Callable[[Any], object]) -> Callable[[], object]:
    """Wrap `action` in a read-only session of its own, as a request does."""

    def run() -> object:
        with storage.get_session(read_only=True) as session:
            return action(session)

    return run


def deep_cursor(pages: int = 20) -> str | None:
    cursor = None
    with storage.get_session(read_only=True) as session:
        for _ in range(pages):
            cursor = storage.list_generations(session, limit=1000, cursor=cursor).next_cursor
    return cursor


def bytes_a_row(rows: int) -> float:
    statement = (
        "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
        if storage.get_engine().dialect.name == "sqlite"
        else "SELECT sum(pg_total_relation_size(oid)) FROM pg_class "
        "WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'S')"
    )
    with storage.get_engine().connect() as connection:
        return float(connection.exec_driver_sql(statement).scalar_one()) / rows


def measure(rows: int, rounds: int) -> Iterator[Measured]:
    """Fill the open database, which must be empty, and measure it."""
    seconds = fill(rows)
    yield Measured(f"fill with {rows:,} rows", f"{seconds:.1f} s", "")
    yield Measured("bytes a generation", f"{bytes_a_row(rows):.0f}", "1000")
    with storage.get_session(read_only=True) as session:
        ids = [row.id for row in storage.get_all_generations(session, limit=1000, offset=rows // 2)]
    cursor = deep_cursor(min(20, max(1, rows // 2000)))
    listed, searched = storage.list_generations, storage.search_generations
    by_prefix = storage.find_generations_by_prefix
    cases: tuple[tuple[str, Callable[[Any], object], str], ...] = (
        ("get", lambda s: storage.get_generation(s, random.choice(ids)), "0.5"),
        ("by id prefix", lambda s: by_prefix(s, random.choice(ids)[:8]), "0.5"),
        ("100 newest, offset 0", lambda s: storage.get_all_generations(s, limit=PAGE), "5"),
        ("100 by cursor, deep", lambda s: listed(s, limit=PAGE, cursor=cursor), "5"),
        ("100 completed", lambda s: listed(s, limit=PAGE, status="completed"), "20"),
        ("100 failed (3 %)", lambda s: listed(s, limit=PAGE, status="failed"), "20"),
        ("pending (50 rows)", lambda s: listed(s, limit=PAGE, status="pending"), "20"),
        ("processing (no row)", lambda s: listed(s, limit=PAGE, status="processing"), "20"),
        ("100 of one model", lambda s: listed(s, limit=PAGE, model_name="musicgen-small"), "20"),
        ("of an unknown model", lambda s: listed(s, limit=PAGE, model_name="none"), "20"),
        ("search: half of all rows", lambda s: searched(s, "beats", limit=PAGE), "20"),
        ("search: rare word", lambda s: searched(s, "theremin", limit=PAGE), "20"),
        ("search: two words", lambda s: searched(s, "piano beats", limit=PAGE), "20"),
        ("search: three words", lambda s: searched(s, "dreamy piano jazz", limit=PAGE), "20"),
        ("search: no hit", lambda s: searched(s, "zither", limit=PAGE), "20"),
        ("search: failed only", lambda s: searched(s, "beat", limit=PAGE, status="failed"), "20"),
    )  # fmt: skip
    for name, action, target in cases:
        yield Measured(name, spread(times(reading(action), rounds)), target)
    yield Measured("insert, durable", spread(times(insert_one, rounds * 3)), "1")
    yield Measured("fdatasync of this disk", spread(fsync_times(rounds * 3)), "")
    stats = times(reading(storage.get_database_stats), 3)
    yield Measured("statistics", spread(stats), "")


def run(
    rows: int = 1_000_000,
    rounds: int = 100,
    database_url: str | None = None,
    report: Callable[[Measured], None] = lambda _measured: None,
) -> list[Measured]:
    """Measure an empty database, by default an SQLite file here that is deleted afterwards.

    Raises:
        ValueError: the database holds generations.
    """
    done = []
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        storage.init_db(database_url or f"sqlite:///{folder}/benchmark.db")
        try:
            with storage.get_session(read_only=True) as session:
                if storage.count_generations(session):
                    raise ValueError("The database is not empty.")
            for measured in chain([about_the_database()], measure(rows, rounds)):
                report(measured)
                done.append(measured)
        finally:
            storage.close_db()
    return done


def about_the_database() -> Measured:
    facts = storage.describe_database()
    return Measured("database", f"{facts['kind']} {facts['server_version']}", "")


def show(measured: Measured) -> None:
    target = f"target {measured.target}" if measured.target else ""
    print(f"{measured.name:28} {measured.figure:32} {target}".rstrip(), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the database.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument(
        "--database-url", help="an EMPTY database; default: an SQLite file, deleted after"
    )
    options = parser.parse_args()
    run(options.rows, options.rounds, options.database_url, show)


if __name__ == "__main__":
    main()
