"""Bad input and broken places: one helpful sentence, a documented exit code, nothing half done."""

import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import disk_of

pytestmark = pytest.mark.integration

GOOD = "house at 120 BPM"
SHORT = ("--duration", "1")


def assert_refused(home, result, code: int, *words: str) -> None:
    """Expect one clear sentence on stderr, no output, no traceback, no file and no open job."""
    assert result.returncode == code, (result.returncode, result.stderr)
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    for word in words:
        assert word.lower() in result.stderr.lower(), result.stderr
    assert home.files() == []
    assert all(status not in {"pending", "processing"} for (status,) in home.rows())


@pytest.mark.parametrize("prompt", ["", "   ", "ab", "\n\t ", "x" * 501])
def test_prompt_must_have_3_to_500_characters(home, prompt):
    assert_refused(home, home.call("generate", prompt, *SHORT), 2, "3 to 500 characters")


def test_prompt_must_be_text(home):
    result = subprocess.run(
        [*home.command("generate"), b"caf\xff\xfe beat", *SHORT],
        cwd=home.path,
        env=home.full_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert_refused(home, result, 2, "not text")


@pytest.mark.parametrize("prompt", ["lo-", "x" * 500, "🎹🔥🎧", "موسيقى هادئة مع بيانو"])
def test_shortest_and_longest_and_foreign_prompts_make_music(home, prompt):
    result = home.call("generate", prompt, *SHORT)
    assert result.returncode == 0, result.stderr
    assert (home.path / result.stdout.strip()).is_file()
    assert home.rows() == [("completed",)]


@pytest.mark.parametrize("duration", ["0", "-1", "nan", "inf", "0.5", "601", "1e308"])
def test_impossible_duration_is_refused(home, duration):
    assert_refused(home, home.call("generate", GOOD, f"--duration={duration}"), 2, "duration")


def test_duration_must_be_a_number(home):
    assert_refused(home, home.call("generate", GOOD, "--duration", "long"), 2, "--duration")


@pytest.mark.parametrize("seed", ["-1", str(2**32)])
def test_impossible_seed_is_refused(home, seed):
    assert_refused(home, home.call("generate", GOOD, f"--seed={seed}", *SHORT), 2, "seed")


def test_unknown_model_is_refused_with_the_nearest_name(home):
    result = home.call("generate", GOOD, "--model", "composr", *SHORT)
    assert_refused(home, result, 4, "composr", "Did you mean 'composer'", "models list")


@pytest.mark.parametrize("option", ["--melody", "--continue-from"])
def test_input_that_the_model_cannot_use_is_refused(home, option):
    song = home.path / "song.wav"
    song.write_bytes(b"RIFF")
    result = home.call("generate", GOOD, "--model", "composer", option, str(song), *SHORT)
    assert_refused(home, result, 2, "'composer' cannot", "model")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DGX_MUSIC_TARGET_LUFS", "loud"),
        ("DGX_MUSIC_TARGET_LUFS", "nan"),
        ("DGX_MUSIC_API_PORT", "70000"),
        ("DGX_MUSIC_BIT_DEPTH", "PCM_8"),
        ("DGX_MUSIC_TARGET_LUF", "-14"),
        ("DATABASE_URL", "not a url"),
        ("DATABASE_URL", "oracle://somewhere/db"),
    ],
)
def test_impossible_setting_is_refused_by_name(home, name, value):
    home.environment[name] = value
    result = home.call("generate", GOOD, *SHORT)
    assert_refused(home, result, 6 if name == "DATABASE_URL" else 2, name)


def test_output_folder_must_not_be_a_file(home):
    (home.path / "taken").write_text("mine")
    home.environment["DGX_MUSIC_OUTPUT_DIR"] = "taken"
    assert_refused(home, home.call("generate", GOOD, *SHORT), 7, "taken", "DGX_MUSIC_OUTPUT_DIR")
    assert (home.path / "taken").read_text() == "mine"


def test_output_folder_must_be_writable(home):
    folder = home.path / "closed"
    folder.mkdir(mode=0o555)
    home.environment["DGX_MUSIC_OUTPUT_DIR"] = "closed"
    result = home.without_root_powers().run("generate", GOOD, *SHORT)
    assert_refused(home, result, 7, "closed", "permission")
    assert list(folder.iterdir()) == []


def test_only_force_replaces_an_output_file(home):
    target = home.path / "mine.wav"
    target.write_text("dear")
    assert_refused(home, home.call("generate", GOOD, *SHORT, "-o", "mine.wav"), 7, "--force")
    assert target.read_text() == "dear"
    assert home.call("generate", GOOD, *SHORT, "-o", "mine.wav", "--force").returncode == 0
    assert target.read_bytes()[:4] == b"RIFF"


def test_unknown_output_format_is_refused_before_rendering(home):
    assert_refused(home, home.call("generate", GOOD, *SHORT, "-o", "a.aac"), 2, ".wav")
    assert home.rows() == []


@pytest.fixture
def small_disk(home) -> Iterator[Path]:
    """The `data` folder of the home on a disk of its own, 12 MiB."""
    with disk_of(home.path / "data", 12) as disk:
        yield disk


def fill(folder: Path, leaving: int) -> None:
    free = shutil.disk_usage(folder).free
    with (folder / "ballast").open("wb") as ballast:
        ballast.write(b"\0" * max(0, free - leaving))


@pytest.mark.parametrize("leaving", [0, 1024 * 1024])
def test_full_disk_is_reported_and_leaves_nothing_half_done(home, small_disk, leaving):
    assert home.run("db", "init").returncode == 0
    fill(small_disk, leaving)
    result = home.run("generate", GOOD, "--duration", "16")
    assert result.returncode in {6, 7}, result.stderr
    assert "Traceback" not in result.stderr
    assert re.search(r"free|full|space", result.stderr, re.IGNORECASE), result.stderr
    assert home.files() == []
    # Even reading a database in WAL mode takes a little space.
    (small_disk / "ballast").unlink()
    assert all(status not in {"pending", "processing"} for (status,) in home.rows())


def test_music_is_made_again_once_the_disk_has_space(home, small_disk):
    fill(small_disk, 0)
    assert home.run("generate", GOOD, *SHORT).returncode in {6, 7}
    (small_disk / "ballast").unlink()
    assert home.run("generate", GOOD, *SHORT).returncode == 0


def test_file_that_is_no_database_is_refused_and_unchanged(home):
    home.database.parent.mkdir()
    home.database.write_bytes(b"These are my notes, not a database. " * 100)
    before = home.database.read_bytes()
    result = home.call("generate", GOOD, *SHORT)
    assert result.returncode == 6
    assert "Traceback" not in result.stderr
    assert "database" in result.stderr
    assert home.database.read_bytes() == before
    assert home.files() == []


def test_read_only_database_is_refused(home):
    assert home.call("db", "init").returncode == 0
    home.database.chmod(0o444)
    home.database.parent.chmod(0o555)
    try:
        result = home.without_root_powers().run("generate", GOOD, *SHORT)
        assert result.returncode in {6, 7}, result.stderr
        assert "Traceback" not in result.stderr
    finally:
        home.database.parent.chmod(0o755)
    assert home.rows() == []


def test_read_only_database_file_is_named(home):
    assert home.call("db", "init").returncode == 0
    home.database.chmod(0o444)
    home.environment["DGX_MUSIC_OUTPUT_DIR"] = "elsewhere"
    result = home.without_root_powers().run("generate", GOOD, *SHORT)
    assert_refused(home, result, 6, "database", "writ")


def test_locked_database_is_reported_after_the_timeout(home):
    assert home.call("db", "init").returncode == 0
    holder = sqlite3.connect(home.database, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    home.environment["DGX_MUSIC_DATABASE_TIMEOUT_SECONDS"] = "0.5"
    try:
        result = home.run("generate", GOOD, *SHORT)
    finally:
        holder.execute("ROLLBACK")
        holder.close()
    assert_refused(home, result, 6, "database", "locked")


def test_database_of_a_newer_release_is_refused_and_unchanged(home):
    assert home.call("db", "init").returncode == 0
    with closing(sqlite3.connect(home.database)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '999'")
    assert_refused(home, home.call("generate", GOOD, *SHORT), 6, "newer")
    with closing(sqlite3.connect(home.database)) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == ("999",)


def test_unknown_job_is_refused(home):
    assert home.call("status", "00000000").returncode == 3
    result = home.call("status", "%")
    assert result.returncode == 3
    assert "Traceback" not in result.stderr
