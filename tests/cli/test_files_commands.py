"""`dgx-music files`: statistics, cleanup, and the check against the database."""

import json
import os
import time

import pytest

pytestmark = pytest.mark.integration

SHORT = ("house at 120 BPM", "--duration", "1", "--quiet")
DAY = "data/outputs/2025/11/07"


def make(home):
    return home.path / home.call("generate", *SHORT).stdout.strip()


def call_json(home, *arguments, code=0):
    result = home.call("files", *arguments, "--json")
    assert result.returncode == code, result.stderr
    return json.loads(result.stdout)


def put(home, relative, data=b"music"):
    path = home.path / relative
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    then = time.time() - 7200
    os.utime(path, (then, then))
    return path


def show_job(home, path):
    return json.loads(home.call("status", path.stem, "--json").stdout)


def test_stats_count_the_files(home):
    put(home, f"{DAY}/a.wav")
    put(home, f"{DAY}/b.flac", b"x" * 1_500_000)
    shown = home.call("files", "stats")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "size    1.5 MB" in shown.stdout
    assert "kinds   1 .flac, 1 .wav" in shown.stdout
    stats = call_json(home, "stats")
    assert (stats["total_files"], stats["total_size_bytes"]) == (2, 1_500_005)
    assert stats["free_bytes"] > 0


def test_cleanup_lists_first_and_keeps_what_makes_the_music_again(home):
    made = make(home)
    shown = home.call("files", "cleanup", "--max-size", "0")
    assert made.stem in shown.stdout
    assert "--yes" in shown.stderr
    assert made.exists()
    deleted = call_json(home, "cleanup", "--max-size", "0", "--yes")
    assert [file["file"].rpartition("/")[2] for file in deleted["files"]] == [made.name]
    assert deleted["deleted"] is True
    assert not made.exists()
    job = show_job(home, made)
    assert job["status"] == "completed"
    assert "make room" in job["error_message"]
    assert {"seed", "file_missing"} <= job["metadata"].keys()


def test_repair_fixes_what_the_check_finds(home):
    gone = make(home)
    copy = gone.read_bytes()
    gone.unlink()
    put(home, f"{DAY}/loose.wav")
    put(home, f"{DAY}/.dgx-0123456789abcdef.part")
    result = home.call("files", "check")
    assert result.returncode == 1
    assert [line.split("\t")[0] for line in result.stdout.splitlines()] == [
        "missing",
        "temporary",
        "unclaimed",
    ]
    assert "left: 3" in result.stderr
    repaired = call_json(home, "check", "--repair")
    assert all(problem["repaired"] for problem in repaired["problems"])
    assert "no longer" in show_job(home, gone)["error_message"]
    assert [path.name for path in home.files()] == ["loose.wav"]
    gone.write_bytes(copy)
    again = home.call("files", "check", "--repair")
    assert again.stderr == "Files: 1, jobs: 1. Problems repaired: 1, left: 0.\n"
    assert show_job(home, gone)["error_message"] is None


def test_changed_file_is_found_and_kept(home):
    made = make(home)
    data = bytearray(made.read_bytes())
    data[-1] ^= 1
    made.write_bytes(data)
    (problem,) = call_json(home, "check", "--deep", "--repair", code=1)["problems"]
    assert (problem["kind"], problem["job_id"]) == ("changed", made.stem)
    assert problem["repaired"] is None
    assert made.exists()


def test_file_name_that_is_no_text_can_be_shown(home):
    path = put(home, f"{DAY}/x.wav")
    path.rename(path.with_name(os.fsdecode(b"\xff.wav")))
    for arguments in (("check", "--json"), ("cleanup", "--older-than", "0")):
        result = home.call("files", *arguments)
        assert "\ufffd.wav" in result.stdout
        assert "Traceback" not in result.stderr
