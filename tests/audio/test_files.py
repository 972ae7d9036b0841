import datetime as dt
import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.audio import AudioFileManager
from services.audio.inventory import StoredFile, lock_name, scan, temporary_name

DAY = dt.date(2025, 11, 7)


@pytest.fixture
def manager(tmp_path):
    return AudioFileManager(tmp_path / "outputs")


def put(manager, job_id, date=None, *, text="audio", extension=".wav", age_days=0.0):
    path = manager.get_output_path(job_id, extension, date=date)
    path.write_text(text)
    then = time.time() - age_days * 86_400
    os.utime(path, (then, then))
    return path


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def names(paths):
    return [path.stem for path in paths]


def test_output_path_is_in_the_folder_of_the_day(manager):
    path = manager.get_output_path("job-1", date=DAY)
    assert path == manager.base_dir / "2025" / "11" / "07" / "job-1.wav"
    assert path.parent.is_dir()


def test_default_day_is_today_in_utc(manager):
    before = dt.datetime.now(dt.UTC).date()
    path = manager.get_output_path("job-1")
    after = dt.datetime.now(dt.UTC).date()
    assert dt.date(*map(int, path.parts[-4:-1])) in {before, after}


def test_datetime_is_converted_to_its_utc_day(manager):
    zone = dt.timezone(dt.timedelta(hours=5))
    aware = dt.datetime(2025, 11, 8, 3, 0, tzinfo=zone)
    assert manager.get_output_path("a", date=aware).parent.name == "07"
    naive = dt.datetime(2025, 11, 8, 3, 0)
    assert manager.get_output_path("a", date=naive).parent.name == "08"


@given(date=st.dates())
def test_path_of_any_date_is_in_a_day_folder(date):
    manager = AudioFileManager("base", create=False)
    path = manager.get_output_path("job", create_dirs=False, date=date)
    relative = path.relative_to("base").as_posix()
    assert relative == f"{date.isoformat().replace('-', '/')}/job.wav"
    assert StoredFile(Path("base"), relative, 0, 0.0, 0.0).is_in_day_folder


def test_base_folder_is_created_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    manager = AudioFileManager()
    assert manager.get_info()["base_dir_exists"]
    path = manager.get_output_path("job", create_dirs=False, date=DAY)
    assert str(path) == "data/outputs/2025/11/07/job.wav"
    assert names_in(tmp_path / "data" / "outputs") == []


def test_base_folder_is_created_only_on_request(tmp_path):
    AudioFileManager(tmp_path / "outputs", create=False)
    assert names_in(tmp_path) == []


def test_a_base_folder_that_cannot_be_created_is_empty(tmp_path):
    (tmp_path / "file").touch()
    assert AudioFileManager(tmp_path / "file" / "outputs").list_files() == []


@pytest.mark.parametrize("extension", ["flac", ".flac"])
def test_extension_may_begin_with_a_dot(manager, extension):
    assert manager.get_output_path("job", extension).name == "job.flac"


@pytest.mark.parametrize("job_id", ["job.wav", "job.WAV"])
def test_extension_of_an_id_is_not_repeated(manager, job_id):
    assert manager.get_output_path(job_id, ".wav").name == job_id
    assert manager.get_output_path(job_id, ".flac").name == f"{job_id}.flac"


@pytest.mark.parametrize(
    "job_id", ["é", "e\u0301", "ритм-7", "拍子", "राग", "จังหวะ", "beat_\u0661"]
)
def test_id_may_be_in_any_script(manager, job_id):
    assert manager.get_output_path(job_id).name == f"{job_id}.wav"


BAD_IDS = ["", ".", "..", "a/b", "../a", "/etc/passwd", "a\\b", "a\0b", "a\n", ".hidden", "-x",
           "a.", "a b", "\u0301a", "x" * 129, "拍" * 100]  # fmt: skip


@pytest.mark.parametrize("job_id", BAD_IDS)
def test_invalid_job_id_is_refused(manager, job_id):
    with pytest.raises(ValueError, match="Invalid job id"):
        manager.get_output_path(job_id)
    with pytest.raises(ValueError, match="Invalid job id"):
        manager.file_exists(job_id)
    assert names_in(manager.base_dir) == []


@pytest.mark.parametrize("extension", ["", ".", "/wav", "../x", ".w/v", ".wav ", ".tar.gz"])
def test_invalid_extension_is_refused(manager, extension):
    with pytest.raises(ValueError, match="Invalid extension"):
        manager.get_output_path("job", extension)


def test_file_exists_only_on_its_day(manager):
    put(manager, "job", DAY)
    assert manager.file_exists("job", date=DAY)
    assert not manager.file_exists("job", ".flac", date=DAY)
    assert not manager.file_exists("job")
    assert not manager.file_exists("other", date=DAY)


def test_sizes_are_bytes_and_mebibytes(manager):
    path = put(manager, "job", text="x" * 524_288)
    assert manager.get_file_size(path) == 524_288
    assert manager.get_file_size_mb(str(path)) == 0.5
    with pytest.raises(FileNotFoundError):
        manager.get_file_size(path.with_name("none.wav"))


def test_delete_returns_whether_the_file_existed(manager):
    path = put(manager, "job")
    assert manager.delete_file(path) is True
    assert not path.exists()
    assert manager.delete_file(path) is False


def test_delete_ignores_folders(manager):
    path = put(manager, "job")
    assert manager.delete_file(path.parent) is False
    assert path.exists()


def test_move_returns_the_destination(manager):
    source = put(manager, "job", text="music")
    destination = manager.base_dir / "kept" / "best.wav"
    assert manager.move_file(source, destination) == destination
    assert destination.read_text() == "music"
    assert not source.exists()


def test_copy_keeps_the_source_and_its_times(manager):
    source = put(manager, "job", text="music", age_days=3)
    destination = manager.copy_file(source, manager.base_dir / "kept" / "best.wav")
    assert destination.read_text() == source.read_text() == "music"
    assert destination.stat().st_mtime == pytest.approx(source.stat().st_mtime, abs=1)
    assert names_in(destination.parent) == ["best.wav"]


def test_failed_copy_leaves_nothing(manager):
    source = put(manager, "job")
    (manager.base_dir / "kept" / "best.wav").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        manager.copy_file(source, manager.base_dir / "kept" / "best.wav")
    assert names_in(manager.base_dir / "kept") == ["best.wav"]


@pytest.mark.parametrize("operation", ["move_file", "copy_file"])
def test_missing_source_is_reported(manager, operation):
    with pytest.raises(FileNotFoundError, match="No such file"):
        getattr(manager, operation)(manager.base_dir / "none.wav", manager.base_dir / "to.wav")


def test_relative_path_starts_at_the_working_or_base_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    manager = AudioFileManager("outputs")
    path = put(manager, "job", DAY)
    assert not path.is_absolute()
    assert manager.get_file_size(path) == manager.get_file_size("2025/11/07/job.wav") == 5
    assert manager.get_file_size(path.absolute()) == 5


def outside_paths(tmp_path):
    """Paths that lead outside the base folder in various ways."""
    base = tmp_path / "outputs"
    base.mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "f.wav").write_text("secret")
    (base / "file-link.wav").symlink_to(tmp_path / "secret" / "f.wav")
    (base / "folder-link").symlink_to(tmp_path / "secret")
    (base / "loop").symlink_to(base / "loop")
    (tmp_path / "outputs-2").symlink_to(tmp_path / "secret")
    return [
        tmp_path / "secret" / "f.wav",
        "../secret/f.wav",
        base / ".." / "secret" / "f.wav",
        base / "file-link.wav",
        base / "folder-link" / "f.wav",
        base / "folder-link" / ".." / "secret" / "f.wav",
        base / "loop",
        tmp_path / "outputs-2" / "f.wav",
        base,
        tmp_path,
        "/",
        "",
    ]


@pytest.mark.parametrize("index", range(12))
def test_no_path_reaches_outside(tmp_path, monkeypatch, index):
    monkeypatch.chdir(tmp_path)
    path = outside_paths(tmp_path)[index]
    manager = AudioFileManager(tmp_path / "outputs")
    inside = put(manager, "job")
    for operation in (
        lambda: manager.get_file_size(path),
        lambda: manager.get_file_size_mb(path),
        lambda: manager.delete_file(path),
        lambda: manager.move_file(path, inside),
        lambda: manager.move_file(inside, path),
        lambda: manager.copy_file(path, inside),
        lambda: manager.copy_file(inside, path),
    ):
        with pytest.raises(ValueError, match="outside"):
            operation()
    assert (tmp_path / "secret" / "f.wav").read_text() == "secret"
    assert inside.read_text() == "audio"


def test_day_folder_that_links_outside_is_refused(tmp_path, manager):
    (tmp_path / "secret").mkdir()
    (manager.base_dir / "2025").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match="outside"):
        manager.get_output_path("job", date=DAY)
    assert not names_in(tmp_path / "secret")


def test_links_are_neither_listed_nor_followed_nor_deleted(tmp_path):
    outside_paths(tmp_path)
    manager = AudioFileManager(tmp_path / "outputs")
    assert manager.list_files() == []
    assert manager.get_storage_stats()["total_files"] == 0
    assert manager.cleanup_old_files(0, dry_run=False) == 0
    assert manager.cleanup_to_size(0, dry_run=False).files == ()
    assert manager.cleanup_empty_directories() == 0
    assert (tmp_path / "secret" / "f.wav").exists()
    assert (tmp_path / "outputs" / "folder-link").is_symlink()


def test_base_folder_may_be_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "outputs").symlink_to(tmp_path / "disk")
    manager = AudioFileManager(tmp_path / "outputs")
    path = put(manager, "job")
    assert manager.list_files() == [path]
    assert manager.get_file_size(path) == 5
    assert manager.delete_file(path) is True
    assert manager.cleanup_empty_directories() == 3
    assert (tmp_path / "outputs").is_symlink()


def test_files_are_listed_newest_first(manager):
    put(manager, "new")
    put(manager, "hour", age_days=1 / 24 / 60)
    put(manager, "january", dt.date(2025, 1, 15))
    put(manager, "november", DAY)
    put(manager, "restored", dt.date(2024, 6, 1))
    expected = ["new", "hour", "november", "january", "restored"]
    assert names(manager.list_files()) == expected
    assert names(manager.list_files(limit=2)) == expected[:2]
    assert manager.list_files(limit=0) == manager.list_files(limit=-3) == []


def test_files_of_a_past_day_are_sorted_by_time(manager):
    put(manager, "first", DAY, age_days=0.2)
    put(manager, "second", DAY, age_days=0.1)
    assert names(manager.list_files()) == ["second", "first"]


def test_date_range_is_inclusive(manager):
    for day in (1, 2, 3, 4):
        put(manager, f"d{day}", dt.date(2025, 11, day))
    listed = manager.list_files(dt.date(2025, 11, 2), dt.datetime(2025, 11, 3))
    assert names(listed) == ["d3", "d2"]
    assert names(manager.list_files(start_date=dt.date(2025, 11, 4))) == ["d4"]
    assert names(manager.list_files(end_date=dt.date(2025, 11, 1))) == ["d1"]


@pytest.mark.parametrize("extension", ["flac", ".FLAC"])
def test_list_can_be_filtered_by_extension(manager, extension):
    put(manager, "a")
    put(manager, "b", extension=".flac")
    assert names(manager.list_files(extension=extension)) == ["b"]


def test_missing_base_folder_is_empty(manager):
    manager.base_dir.rmdir()
    assert manager.list_files() == []
    assert manager.cleanup_old_files() == 0
    assert manager.cleanup_empty_directories() == 0


def test_dry_run_counts_without_deleting(manager):
    old = put(manager, "old", age_days=31)
    put(manager, "young", age_days=29)
    assert manager.cleanup_old_files() == 1
    assert old.exists()
    assert manager.cleanup_old_files(dry_run=False) == 1
    assert names(manager.list_files()) == ["young"]


def test_restored_file_is_as_old_as_its_folder(manager):
    put(manager, "restored", DAY)
    assert manager.cleanup_old_files(30) == 1


def test_a_negative_age_is_refused(manager):
    for age in (-1, float("nan")):
        with pytest.raises(ValueError, match="days_old"):
            manager.cleanup_old_files(age)


def test_oldest_files_are_deleted_until_the_rest_fits(manager):
    put(manager, "oldest", DAY, text="x" * 500)
    put(manager, "older", age_days=2, text="x" * 300)
    put(manager, "new", text="x" * 200)
    plan = manager.cleanup_to_size(400)
    assert names(file.path for file in plan.files) == ["oldest", "older"]
    assert (plan.total_bytes, plan.kept_files, plan.kept_bytes) == (800, 1, 200)
    assert not plan.deleted
    assert len(manager.list_files()) == 3
    assert manager.cleanup_to_size(500, dry_run=False).deleted
    assert names(manager.list_files()) == ["new", "older"]


@pytest.mark.parametrize(
    ("max_bytes", "left"), [(1000, 2), (10, 2), (9, 1), (5, 1), (4, 0), (0, 0)]
)
def test_as_few_files_as_possible_are_deleted(manager, max_bytes, left):
    put(manager, "a", age_days=1)
    put(manager, "b")
    manager.cleanup_to_size(max_bytes, dry_run=False)
    assert len(manager.list_files()) == left


def test_a_negative_size_is_refused(manager):
    with pytest.raises(ValueError, match="max_bytes"):
        manager.cleanup_to_size(-1)


def test_temporary_file_is_not_deleted_for_its_size(manager):
    path = put(manager, "job")
    partial = path.rename(path.with_name(temporary_name()))
    assert manager.cleanup_to_size(0, dry_run=False).files == ()
    assert partial.exists()


@pytest.mark.parametrize("folder", ["9999/12/31", "0001/01/01", "2025/13/45", "2025/02/30"])
def test_folder_with_an_unusual_date_is_scanned(manager, folder):
    path = manager.base_dir / folder / "job.wav"
    path.parent.mkdir(parents=True)
    path.write_text("audio")
    assert manager.list_files() == [path]
    assert manager.cleanup_old_files(30) == (folder == "0001/01/01")


@pytest.mark.parametrize(("written", "year"), [(-1e9, 1938), (0.0, 1970), (1e15, 9999)])
def test_file_may_be_from_any_year(tmp_path, written, year):
    assert StoredFile(tmp_path, "job.wav", 5, written, written).day.year == year


@pytest.mark.parametrize(
    ("relative", "expected"),
    [
        ("2025/11/07/job.wav", True),
        ("2025/11/07/job/bass.wav", True),
        ("2025/11/07x/job.wav", False),
        ("x/2025/11/07/job.wav", False),
        ("2025/11/job.wav", False),
        ("job.wav", False),
    ],
)
def test_day_folders_are_recognised(tmp_path, relative, expected):
    path = tmp_path / relative
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("audio")
    (found,) = scan(tmp_path)
    assert (found.path, found.relative) == (path, relative)
    assert found.is_in_day_folder is expected


def test_lock_file_is_neither_listed_nor_deleted(manager):
    lock = manager.base_dir / lock_name("worker-0")
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.touch()
    os.utime(lock, (0, 0))
    assert manager.list_files() == []
    assert manager.get_storage_stats()["total_files"] == 0
    assert manager.cleanup_old_files(1, dry_run=False) == 0
    assert manager.cleanup_to_size(0, dry_run=False).files == ()
    assert lock.exists()


def test_abandoned_temporary_file_is_hidden_and_deleted(manager):
    path = put(manager, "job", age_days=40)
    path.rename(path.with_name(".dgx-0123456789abcdef.part"))
    assert manager.list_files() == []
    assert manager.cleanup_old_files(dry_run=False) == 1
    assert not names_in(path.parent)


def test_only_empty_folders_are_deleted(manager):
    kept = put(manager, "job", DAY)
    manager.get_output_path("gone", date=dt.date(2024, 1, 1))
    (manager.base_dir / "x" / "y").mkdir(parents=True)
    assert manager.cleanup_empty_directories() == 5
    assert kept.exists()
    assert names_in(manager.base_dir) == ["2025"]


def test_empty_base_folder_is_kept(manager):
    assert manager.cleanup_empty_directories() == 0
    assert manager.base_dir.is_dir()


def test_statistics_count_files_and_sizes(manager):
    oldest = put(manager, "a", dt.date(2025, 1, 1), text="x" * 1000)
    put(manager, "b", extension=".flac", text="x" * 500, age_days=1)
    newest = put(manager, "c", text="x" * 548)
    stats = manager.get_storage_stats()
    assert (stats["total_files"], stats["total_size_bytes"]) == (3, 2048)
    assert stats["total_size_mb"] == 2048 / 2**20
    assert stats["total_size_gb"] == 2048 / 2**30
    assert (stats["oldest_file"], stats["newest_file"]) == (str(oldest), str(newest))
    assert stats["file_types"] == {".wav": 2, ".flac": 1}


def test_statistics_of_an_empty_folder(manager):
    assert manager.get_storage_stats() == {
        "total_files": 0,
        "total_size_bytes": 0,
        "total_size_mb": 0.0,
        "total_size_gb": 0.0,
        "oldest_file": None,
        "newest_file": None,
        "file_types": {},
    }


def test_info_has_the_existence_of_the_folder(manager):
    manager.base_dir.rmdir()
    info = manager.get_info()
    assert (info["base_dir"], info["base_dir_exists"]) == (str(manager.base_dir), False)
    assert info["free_bytes"] is None
    manager.base_dir.mkdir()
    assert manager.get_info()["base_dir_exists"] is True
    assert manager.get_info()["free_bytes"] > 0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(job_id=st.text(max_size=40), extension=st.text(max_size=12))
def test_any_id_is_refused_or_stays_in_its_folder(manager, job_id, extension):
    try:
        path = manager.get_output_path(job_id, extension, create_dirs=False, date=DAY)
    except ValueError:
        return
    assert path.parent == manager.base_dir / "2025" / "11" / "07"
    assert path.name.startswith(job_id)


PARTS = st.sampled_from(
    [
        "..",
        ".",
        "outputs",
        "in",
        "out",
        "loop",
        "secret",
        "f.wav",
        "new",
        "a\0b",
        "~",
        "",
        "x" * 300,
    ]
)


def paths_of_all_kinds(base):
    """Paths relative to the base, absolute, or below the base."""
    fronts = st.sampled_from(["", "/", f"{base}/", f"{base}/in/../", f"{base.parent}/"])
    parts = st.lists(PARTS, max_size=7)
    return st.builds(lambda front, rest: front + "/".join(rest), fronts, parts)


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.parametrize("operation", ["copy_file", "move_file"])
def test_a_path_through_a_missing_folder_outside_does_not_create_it(tmp_path, operation):
    base = tmp_path / "outputs"
    base.mkdir()
    (base / "source").write_text("x")
    target = f"{tmp_path}/missing/../outputs/kept/f.wav"
    assert getattr(AudioFileManager(base), operation)("source", target) == base / "kept" / "f.wav"
    assert names_in(tmp_path) == ["outputs"]
    assert (base / "kept" / "f.wav").read_text() == "x"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_no_path_reads_or_writes_outside(tmp_path, data):
    base, secret = tmp_path / "outputs", tmp_path / "secret"
    (base / "in").mkdir(parents=True, exist_ok=True)
    secret.mkdir(exist_ok=True)
    (secret / "f.wav").write_text("secret")
    if not (base / "out").is_symlink():
        (base / "out").symlink_to(secret)
        (base / "loop").symlink_to(base / "loop")
    (base / "source").write_text("x")
    path = data.draw(paths_of_all_kinds(base))
    manager = AudioFileManager(base)
    for operation in (
        manager.get_file_size,
        lambda to: manager.copy_file("source", to),
        lambda to: manager.move_file("source", to),
        lambda source: manager.copy_file(source, "copy"),
        manager.delete_file,
    ):
        try:
            result = operation(path)
        except (ValueError, OSError):
            continue
        assert base.resolve() in (base / path).resolve().parents
        assert not isinstance(result, Path) or base.resolve() in result.resolve().parents
    assert contents(secret) == {"f.wav": "secret"}
    assert names_in(tmp_path) == ["outputs", "secret"]
    assert (base / "out").is_symlink()
