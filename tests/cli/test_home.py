"""The home folder: one library, whatever folder a command is called from."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from services.cli import app

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
MAIN = "from services.cli import main; main()"


@pytest.fixture
def elsewhere(tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder


@pytest.fixture
def studio(home, elsewhere):
    """A home folder that no command is called from."""
    home.environment["DGX_MUSIC_HOME"] = str(home.path / "studio")
    return home


def test_the_copy_goes_where_the_caller_is_and_the_take_to_the_library(studio, elsewhere):
    command = studio.command("generate", "house at 120 BPM", "-d", "1", "-o", "mine.wav")
    made = subprocess.run(
        command, cwd=elsewhere, env=studio.full_environment(), capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert made.stdout == "mine.wav\n"
    assert [path.name for path in elsewhere.iterdir()] == ["mine.wav"]
    (take,) = (studio.path / "studio" / "data" / "outputs").rglob("*.wav")
    assert f"Also kept as {take}\n" in made.stderr
    assert len(studio.run("history").stdout.splitlines()) == 1


def test_a_recipe_takes_paths_from_where_the_caller_is(studio, elsewhere):
    command = [str(ROOT / "just"), "generate", "house at 120 BPM", "1", "--output", "mine.wav"]
    made = subprocess.run(
        command, cwd=elsewhere, env=studio.full_environment(), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert (made.returncode, made.stdout) == (0, "mine.wav\n"), made.stderr
    assert [path.name for path in elsewhere.iterdir()] == ["mine.wav"]


def test_an_installed_program_keeps_its_library_with_the_user(tmp_path, elsewhere):
    site = tmp_path / "site-packages"
    site.mkdir()
    (site / "services").symlink_to(ROOT / "services")
    environment = {"PYTHONPATH": str(site), "XDG_DATA_HOME": str(tmp_path / "share")}

    def folder_of_files() -> str:
        stats = subprocess.run(
            [sys.executable, "-c", MAIN, "files", "stats", "--json"],
            cwd=elsewhere, env=environment, capture_output=True, check=True,
        )  # fmt: skip
        return str(json.loads(stats.stdout)["folder"])

    assert folder_of_files() == str(tmp_path / "share" / "dgx-music" / "data" / "outputs")
    (elsewhere / "data").mkdir()
    (elsewhere / "data" / "generations.db").touch()
    assert folder_of_files() == str(elsewhere / "data" / "outputs")


def test_backups_are_relative_to_the_caller(tmp_path, elsewhere, monkeypatch):
    monkeypatch.chdir(elsewhere)
    made = CliRunner().invoke(app, ["db", "backup", "copy.db"])
    assert (made.exit_code, made.stdout) == (0, "copy.db\n"), made.output
    assert [path.name for path in elsewhere.iterdir()] == ["copy.db"]
    assert (tmp_path / "data" / "generations.db").is_file()


@pytest.fixture
def findings(monkeypatch, elsewhere):
    """Return what `doctor` finds, by name, when called from another folder."""
    monkeypatch.chdir(elsewhere)

    def run() -> dict[str, dict[str, str]]:
        found = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)
        return {finding["name"]: finding for finding in found}

    return run


def test_doctor_shows_the_home_folder_and_the_file_of_settings(tmp_path, findings):
    found = findings()
    assert found["home"]["detail"] == f"{tmp_path} (DGX_MUSIC_HOME)"
    assert found["settings"]["detail"].endswith(f"there is no {tmp_path}/.env")
    (tmp_path / ".env").write_text("DGX_MUSIC_API_PORT=9000\n")
    assert findings()["settings"] == {
        "name": "settings",
        "verdict": "ok",
        "detail": f"from the environment and {tmp_path}/.env",
    }


def test_doctor_warns_of_settings_in_a_file_that_is_not_read(tmp_path, elsewhere, findings):
    (elsewhere / ".env").write_text("SECRET=1\n")
    assert findings()["settings"]["verdict"] == "ok"
    (elsewhere / ".env").write_text("DGX_MUSIC_API_PORT=9000\n")
    found = findings()["settings"]
    assert found["verdict"] == "warn"
    assert found["detail"] == f"{elsewhere}/.env is not read; move it to {tmp_path}/.env"


def test_doctor_refuses_a_home_that_is_a_file(tmp_path, findings, monkeypatch):
    file = tmp_path / "file"
    file.write_text("not a folder")
    monkeypatch.setenv("DGX_MUSIC_HOME", str(file / "below"))
    home = findings()["home"]
    assert (home["verdict"], str(file) in home["detail"]) == ("fail", True)
