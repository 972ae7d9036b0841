"""Outputs that appear whole or not at all."""

import pytest

from services.daw.output import new_output
from services.errors import InvalidRequestError, OutputError


def contents(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def write_and_fail(target, error, *, force=False):
    with new_output(target, force=force) as draft:
        fill(draft)
        raise error


def fill(draft):
    draft.mkdir()
    (draft / "file").write_text("new")


def test_a_folder_has_its_name_only_when_it_is_whole(tmp_path):
    target = tmp_path / "new" / "session"
    with new_output(target, force=False) as draft:
        fill(draft)
        assert not target.exists()
    assert contents(tmp_path) == ["new", "new/session", "new/session/file"]


def test_what_fails_leaves_nothing(tmp_path):
    with pytest.raises(KeyError):
        write_and_fail(tmp_path / "session", KeyError())
    assert contents(tmp_path) == []


def test_an_existing_output_stays_without_force(tmp_path):
    (tmp_path / "session").write_text("old")
    with (
        pytest.raises(InvalidRequestError, match=r"session already exists.*--force"),
        new_output(tmp_path / "session", force=False),
    ):
        pytest.fail("the block must not run")
    assert (tmp_path / "session").read_text() == "old"


def test_force_replaces_a_folder_and_all_in_it(tmp_path):
    target = tmp_path / "session"
    target.mkdir()
    (target / "old").touch()
    with new_output(target, force=True) as draft:
        fill(draft)
    assert contents(tmp_path) == ["session", "session/file"]


def test_force_replaces_a_link_and_not_what_it_leads_to(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "kept").touch()
    (tmp_path / "session").symlink_to(tmp_path / "other")
    with new_output(tmp_path / "session", force=True) as draft:
        fill(draft)
    assert contents(tmp_path) == ["other", "other/kept", "session", "session/file"]
    assert not (tmp_path / "session").is_symlink()


def test_a_failure_with_force_keeps_the_earlier_output(tmp_path):
    target = tmp_path / "session"
    fill(target)
    (target / "file").write_text("earlier")
    with pytest.raises(OutputError, match="Free some space"):
        write_and_fail(target, OSError(28, "No space left on device"), force=True)
    assert (target / "file").read_text() == "earlier"
    assert contents(tmp_path) == ["session", "session/file"]


def test_a_file_in_the_way_of_the_folder_is_an_error_with_advice(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputError, match=r"part of the path is a file"),
        new_output(tmp_path / "file" / "session", force=False),
    ):
        pytest.fail("the block must not run")
