"""Free disk space, and the floor below which no job is accepted."""

import shutil

import pytest

from services.config import Settings
from services.errors import OutputError
from services.machine.space import (
    free_bytes,
    nearest_existing,
    require_disk_floor,
    require_output_folder,
    write_folders,
)


@pytest.fixture
def make_settings(tmp_path):
    def make(**changed):
        given = {
            "DATABASE_URL": f"sqlite:///{tmp_path}/db/music.db",
            "output_dir": tmp_path / "a" / "outputs",
        }
        return Settings(**given | changed)

    return make


def test_the_nearest_existing_folder_of_one_that_is_missing(tmp_path):
    assert nearest_existing(tmp_path / "a" / "b") == tmp_path
    assert nearest_existing(tmp_path) == tmp_path


def test_a_broken_link_counts_as_existing(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert nearest_existing(tmp_path / "link" / "a") == tmp_path / "link"
    with pytest.raises(OutputError, match="cannot be used"):
        free_bytes(tmp_path / "link")


def test_the_folders_are_the_output_folder_and_that_of_an_sqlite_database(make_settings, tmp_path):
    found = write_folders(make_settings())
    assert [(one.what, one.folder) for one in found] == [
        ("output folder", tmp_path / "a" / "outputs"),
        ("database", tmp_path / "db"),
    ]
    assert all(one.free_bytes > 0 and one.is_writable for one in found)


def test_a_database_on_a_server_has_no_folder(make_settings):
    settings = make_settings(DATABASE_URL="postgresql://server/music")
    assert [one.what for one in write_folders(settings)] == ["output folder"]


def test_jobs_are_refused_below_the_floor_and_the_setting_is_named(make_settings, monkeypatch):
    settings = make_settings()
    usage = shutil.disk_usage("/")._replace(free=settings.disk_floor_bytes)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: usage)
    require_disk_floor(settings)
    usage = usage._replace(free=settings.disk_floor_bytes - 1)
    with pytest.raises(OutputError, match=r"disk of the output folder .*DGX_MUSIC_OUTPUT_DIR"):
        require_disk_floor(settings)


def test_an_output_folder_below_a_file_is_refused(make_settings, tmp_path):
    require_output_folder(make_settings())
    (tmp_path / "a").write_text("in the way")
    with pytest.raises(OutputError, match=r"cannot be written.*DGX_MUSIC_OUTPUT_DIR"):
        require_output_folder(make_settings())
