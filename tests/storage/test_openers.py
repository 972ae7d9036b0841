"""Processes that have a file open."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.storage import openers
from services.storage.openers import find_other_openers

pytestmark = pytest.mark.integration


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "music.db"
    path.touch()
    return path


@pytest.fixture
def child(file: Path) -> Iterator[int]:
    """A forked process that has the file open until the test ends."""
    ready, end = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(end[1])
        os.open(file, os.O_RDONLY)
        os.write(ready[1], b".")
        os.read(end[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    yield pid
    os.close(end[1])
    os.waitpid(pid, 0)
    for descriptor in (*ready, end[0]):
        os.close(descriptor)


def test_other_process_is_found_by_any_name_of_the_file(child: int, file: Path) -> None:
    link = file.with_name("link.db")
    link.symlink_to(file)
    for path in (file, link):
        assert [number for number, _ in find_other_openers(path)] == [child]
    ((_, name),) = find_other_openers(file)
    assert name


def test_this_process_is_not_an_other_opener(file: Path) -> None:
    with file.open():
        assert find_other_openers(file) == []


def test_process_with_another_file_of_the_folder_is_not_found(child: int, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    other.touch()
    assert find_other_openers(other) == []


def test_nothing_is_found_without_proc(
    child: int, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openers, "_PROC", tmp_path / "no-proc")
    assert find_other_openers(file) == []


def test_process_that_ends_during_the_check_is_left_out(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "proc"
    (folder / "1" / "fd").mkdir(parents=True)
    (folder / "1" / "fd" / "3").symlink_to(tmp_path / "gone")
    (folder / "2").mkdir()
    (folder / "3" / "fd").mkdir(parents=True)
    (folder / "3" / "fd" / "5").symlink_to(file)
    monkeypatch.setattr(openers, "_PROC", folder)
    assert find_other_openers(file) == []
    (folder / "3" / "comm").write_text("python\n")
    assert find_other_openers(file) == [(3, "python")]
