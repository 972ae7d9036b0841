"""`dgx-music export`: takes become sessions, folders and packs."""

import json
import os
import sqlite3
from contextlib import closing
from xml.etree import ElementTree

import numpy as np
import pytest
import soundfile

from services.errors import FileGoneError, InvalidRequestError
from services.jobs.exports import FORMATS

PROMPT = "trap at 140 BPM in C minor"


@pytest.fixture
def take(home):
    """A take of 2 s without stems; returns its job."""
    return generate(home)


def generate(home, prompt=PROMPT, *options):
    made = home.call("generate", prompt, "-d", "2", "--seed", "1", "--json", *options)
    assert made.returncode == 0, made.stderr
    return json.loads(made.stdout)


def export(home, *arguments, to="folder"):
    return home.call("export", *arguments, "--to", to, "--output", "out")


def files_below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


def test_a_take_without_stems_gets_them_and_becomes_an_ardour_session(home, take):
    done = home.call("export-ardour", "last", "--output", "out", "--name", "Beat")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "out/Beat-ardour/Beat.ardour\n"
    session = ElementTree.parse(home.path / done.stdout.strip()).getroot()
    assert [float(one.get("npm")) for one in session.iter("Tempo")] == [140.0]
    audio = home.path / "out/Beat-ardour/interchange/Beat/audiofiles"
    assert (audio / "Mix.wav").read_bytes() == (home.path / take["file"]).read_bytes()
    stems = json.loads(home.call("status", "last", "--json").stdout)["stems"]
    assert {path.stem for path in audio.iterdir()} == {"Mix", *stems}
    total = sum(soundfile.read(audio / f"{name}.wav")[0] for name in stems)
    mix, _ = soundfile.read(audio / "Mix.wav")
    # Each file of 16 bits is rounded, with noise of up to a step.
    assert np.abs(total - mix).max() <= 1.5 * (len(stems) + 1) / 2**15


def test_without_a_folder_the_current_one_is_used(home, take):
    assert (
        home.call("export-ardour", "last", "--name", "Beat").stdout == "Beat-ardour/Beat.ardour\n"
    )
    assert (home.path / "Beat-ardour/Beat.ardour").exists()


def test_stems_that_are_there_are_not_rendered_again(home, monkeypatch):
    generate(home, PROMPT, "--stems")
    monkeypatch.setattr("services.jobs.exports.add_parts", None)
    done = export(home, "last")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_take_can_be_exported_to_every_format(home, take):
    paths = [export(home, take["job_id"][:8], to=to).stdout.strip() for to in FORMATS]
    assert len(set(paths)) == len(FORMATS)
    for path in paths:
        assert (home.path / path).exists()
    folder = home.path / "out" / PROMPT
    assert {f"{PROMPT}.wav", f"{PROMPT}.mid", "README.txt", "stems"} <= {
        path.name for path in folder.iterdir()
    }
    manifest = json.loads((home.path / "out" / f"{PROMPT}-pack/manifest.json").read_text())
    assert {one["licence"] for one in manifest["files"]} == {"CC0-1.0"}


def test_several_takes_stand_after_each_other(home, take):
    other = generate(home, "house at 120 BPM")
    done = export(home, take["job_id"], other["job_id"], to="ardour")
    assert done.returncode == 0, done.stderr
    session = ElementTree.parse(home.path / done.stdout.strip()).getroot()
    assert [float(one.get("npm")) for one in session.iter("Tempo")] == [140.0, 120.0]


def test_an_export_is_replaced_only_with_force(home, take):
    first = export(home, "last")
    readme = home.path / first.stdout.strip() / "README.txt"
    readme.write_text("mine")
    again = export(home, "last")
    assert (again.returncode, again.stdout) == (InvalidRequestError.exit_code, "")
    assert "--force" in again.stderr
    assert readme.read_text() == "mine"
    assert export(home, "last", "--force").returncode == 0
    assert readme.read_text() != "mine"


def test_a_take_of_another_version_is_exported_without_stems(home, take):
    with closing(sqlite3.connect(home.database)) as connection, connection:
        connection.execute(
            "UPDATE generations SET metadata = json_set(metadata, '$.engine_version', '0')"
        )
    done = home.call("export", "last", "--to", "folder", "--output", "out", "--json")
    (remark,) = json.loads(done.stdout)["remarks"]
    assert "without stems" in remark
    assert "version 0 of composer" in remark
    assert files_below(home.path / "out" / PROMPT) == ["README.txt", f"{PROMPT}.wav"]


def test_stems_are_not_kept_if_the_mix_would_differ(home, take):
    home.environment["DGX_MUSIC_TARGET_LUFS"] = "-20"
    done = export(home, "last")
    assert done.returncode == 0
    assert "other settings" in done.stderr
    assert json.loads(home.call("status", "last", "--json").stdout)["stems"] == {}
    assert [path.suffix for path in home.files()] == [".wav"]


def test_a_job_without_a_take_and_an_unknown_format_are_refused(home, take):
    failed = home.add_job("house", status="failed")
    for jobs, to, words in (
        ((take["job_id"], failed), "folder", f"{failed} is failed"),
        (("last",), "cubase", "ardour, dawproject, reaper, folder, pack"),
        (("none",), "folder", "'none'"),
    ):
        done = export(home, *jobs, to=to)
        assert done.returncode != 0
        assert words in done.stderr
    assert not (home.path / "out").exists()


def test_a_missing_file_is_named_and_nothing_is_written(home, take):
    (home.path / take["file"]).unlink()
    done = export(home, take["job_id"])
    assert done.returncode in {FileGoneError.exit_code, InvalidRequestError.exit_code}
    assert take["job_id"] in done.stderr
    assert not (home.path / "out").exists()


def test_an_export_follows_the_umask_and_stems_in_the_library_stay_private(home, take):
    os.umask(umask := os.umask(0o022))
    ran = home.run("export", "last", "--to", "folder", "--output", "out")
    assert ran.returncode == 0, ran.stderr
    folder = home.path / "out" / PROMPT
    assert folder.stat().st_mode & 0o777 == 0o777 & ~umask
    assert (folder / "README.txt").stat().st_mode & 0o777 == 0o666 & ~umask
    stems = json.loads(home.call("status", "last", "--json").stdout)["stems"]
    assert {(home.path / path).stat().st_mode & 0o777 for path in stems.values()} == {0o600}
