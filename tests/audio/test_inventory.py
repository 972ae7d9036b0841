import datetime as dt
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.audio.inventory import (
    StoredFile,
    listed_file,
    lock_name,
    plan_cleanup,
    scan,
    sort_oldest_first,
    summarise,
    temporary_name,
)

SIZES_AND_TIMES = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=8)


def stored(name="a.wav", size=1, written=0.0, changed=None):
    return StoredFile(Path("base"), name, size, written if changed is None else changed, written)


def build_files(sizes_and_times):
    return [stored(f"{at}.wav", *pair) for at, pair in enumerate(sizes_and_times)]


def test_temporary_names_differ_and_are_recognised():
    names = {temporary_name() for _ in range(50)}
    assert len(names) == 50
    assert all(stored(f"2025/11/07/{name}").is_temporary for name in names)
    assert max(map(len, names)) < 32


@pytest.mark.parametrize("name", ["take.part", ".dgx-1.wav", ".dgx-folder/take.part", ".hidden"])
def test_other_names_are_not_temporary(name):
    assert not stored(name).is_temporary


def test_scan_leaves_out_locks_links_and_pipes(tmp_path):
    (tmp_path / "take.wav").write_text("audio")
    (tmp_path / "link.wav").symlink_to("take.wav")
    (tmp_path / lock_name("worker-0")).touch()
    os.mkfifo(tmp_path / "pipe.wav")
    (found,) = scan(tmp_path)
    assert (found.relative, found.size) == ("take.wav", 5)


def test_scan_of_a_file_or_a_missing_folder_is_empty(tmp_path):
    (tmp_path / "file").touch()
    assert list(scan(tmp_path / "file")) == []
    assert list(scan(tmp_path / "missing")) == []


def test_file_that_vanishes_during_the_scan_is_left_out(tmp_path):
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).touch()
    found = scan(tmp_path)
    first = next(found)
    (tmp_path / ("b.wav" if first.relative == "a.wav" else "a.wav")).unlink()
    assert list(found) == []


def test_listed_file_of_a_day_folder_is_not_newer_than_its_day():
    changed = dt.datetime(2026, 1, 1, tzinfo=dt.UTC).timestamp()
    restored = listed_file("2025/11/07/job.wav", 5, changed)
    assert (restored.day, restored.changed, restored.size) == (dt.date(2025, 11, 7), changed, 5)
    assert listed_file("other/job.wav", 5, changed).day == dt.date(2026, 1, 1)


def test_files_of_one_moment_are_sorted_by_change_and_name():
    files = [stored("b", changed=2.0), stored("a", changed=2.0), stored("c", changed=1.0)]
    assert [file.relative for file in sort_oldest_first(files)] == ["c", "a", "b"]


def test_summary_names_the_oldest_and_newest_file_by_the_given_label():
    files = [stored("b.WAV", 10, 2.0), stored("a.flac", 20, 1.0), stored("c", 30, 3.0)]
    found = summarise(files, lambda file: f"<{file.relative}>")
    assert (found["oldest_file"], found["newest_file"]) == ("<a.flac>", "<c>")
    assert found["file_types"] == {".flac": 1, ".wav": 1, "": 1}
    assert (found["total_files"], found["total_size_bytes"]) == (3, 60)


@given(SIZES_AND_TIMES, st.integers(0, 10), st.integers(0, 60))
def test_cleanup_deletes_old_files_and_no_more_than_needed(pairs, written_before, max_bytes):
    files = build_files(pairs)
    plan = plan_cleanup(files, written_before=written_before, max_bytes=max_bytes)
    kept = sort_oldest_first(files)[len(plan.files) :]
    assert (*plan.files, *kept) == tuple(sort_oldest_first(files))
    assert all(file.written >= written_before for file in kept)
    assert sum(file.size for file in kept) == plan.kept_bytes <= max_bytes
    assert plan.kept_files == len(kept)
    assert plan.total_bytes + plan.kept_bytes == sum(file.size for file in files)
    if plan.files and plan.files[-1].written >= written_before:
        assert plan.kept_bytes + plan.files[-1].size > max_bytes
    assert not plan.deleted


@given(SIZES_AND_TIMES)
def test_cleanup_without_limits_keeps_everything(pairs):
    plan = plan_cleanup(build_files(pairs))
    assert (plan.files, plan.kept_files) == ((), len(pairs))


def test_cleanup_refuses_a_negative_size():
    with pytest.raises(ValueError, match="max_bytes must be 0 or more, got -1"):
        plan_cleanup([], max_bytes=-1)
