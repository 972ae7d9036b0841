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
    assert "free space" in job["error_message"]
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


def test_stats_of_an_empty_library(home):
    stats = call_json(home, "stats")
    assert stats["folder"] == str(home.path / "data" / "outputs")
    assert (stats["total_files"], stats["total_size_bytes"]) == (0, 0)
    assert (stats["oldest_file"], stats["newest_file"], stats["file_types"]) == (None, None, {})
    lines = home.call("files", "stats").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["folder", "files", "size"]


def test_stats_leave_out_unfinished_files(home):
    put(home, f"{DAY}/a.wav")
    put(home, f"{DAY}/.dgx-0123456789abcdef.part")
    assert call_json(home, "stats")["file_types"] == {".wav": 1}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--older-than DAYS, --max-size SIZE"),
        (("--yes",), "--older-than DAYS, --max-size SIZE"),
        (("--max-size", "big"), "'big' is not a size"),
        (("--max-size", "-1GB"), "is not a size"),
        (("--max-size", ""), "is not a size"),
        (("--older-than", "-1"), "--older-than"),
        (("--older-than", "nan"), "--older-than"),
    ],
)
def test_cleanup_without_a_clear_limit_is_refused(home, arguments, words):
    put(home, f"{DAY}/a.wav")
    result = home.call("files", "cleanup", *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert words in result.stderr
    assert len(home.files()) == 1


def test_cleanup_deletes_the_oldest_files_until_the_rest_fits(home):
    old, middle, new = (put(home, f"data/outputs/2025/11/0{day}/a.wav") for day in (7, 8, 9))
    listed = home.call("files", "cleanup", "--max-size", "10")
    assert listed.stdout == "2025-11-07\t0.0\t2025/11/07/a.wav\n"
    assert listed.stderr == "With --yes, this deletes 1 files, 0.0 MB. 2 files, 0.0 MB, remain.\n"
    assert old.exists()
    found = call_json(home, "cleanup", "--max-size", "10", "--yes")
    assert found == {
        "deleted": True,
        "files": [{"file": "2025/11/07/a.wav", "bytes": 5}],
        "kept_files": 2,
        "kept_bytes": 10,
    }
    assert [path.exists() for path in (old, middle, new)] == [False, True, True]


def test_dry_run_is_what_happens_without_yes(home):
    put(home, f"{DAY}/a.wav")
    arguments = ("files", "cleanup", "--older-than", "0")
    assert home.call(*arguments, "--dry-run").stderr == home.call(*arguments).stderr
    assert len(home.files()) == 1


def test_cleanup_is_a_table_on_a_terminal(home):
    put(home, f"{DAY}/a.wav")
    lines = home.call("files", "cleanup", "--older-than", "0", width=80).stdout.splitlines()
    assert [line.split() for line in lines] == [
        ["day", "MB", "file"],
        ["2025-11-07", "0.0", "2025/11/07/a.wav"],
    ]


def test_cleanup_leaves_the_files_of_the_user(home):
    mine = put(home, "data/outputs/album/mine.wav")
    assert home.call("files", "cleanup", "--older-than", "0", "--yes").returncode == 0
    assert mine.exists()


def test_check_of_an_agreeing_library_finds_nothing(home):
    home.add_job("calm piano")
    assert call_json(home, "check") == {"files": 1, "generations": 1, "problems": []}
    result = home.call("files", "check", "--repair", "--deep")
    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr == "Files: 1, jobs: 1. No problems.\n"


def test_check_names_the_job_of_a_missing_file(home):
    job_id = home.add_job("calm piano", has_file=False)
    (home.path / "data" / "outputs").mkdir()
    (problem,) = call_json(home, "check", code=1)["problems"]
    assert list(problem) == ["kind", "file", "bytes", "job_id", "detail", "repaired"]
    assert (problem["kind"], problem["job_id"]) == ("missing", job_id)
    assert problem["file"] == f"2026/11/21/{job_id}.wav"
    assert problem["repaired"] is None


def test_repair_is_refused_while_the_output_folder_is_missing(home):
    job_id = home.add_job("calm piano", has_file=False)
    result = home.call("files", "check", "--repair")
    assert (result.returncode, result.stdout) == (7, "")
    assert "Mount its disk" in result.stderr
    assert show_job(home, home.path / f"{job_id}.wav")["error_message"] is None


def test_check_ignores_files_of_the_last_hour(home):
    path = put(home, f"{DAY}/loose.wav")
    os.utime(path)
    assert call_json(home, "check")["problems"] == []
