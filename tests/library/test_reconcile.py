import hashlib
import os
import time
import uuid
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services import storage
from services.audio.inventory import temporary_name
from services.cli.files import cleanup, parse_size
from services.errors import InvalidRequestError, OutputError
from services.library import cleanup as library_cleanup
from services.library import reconcile
from services.library.reconcile import FILE_MISSING, LOST_AND_FOUND, OrphanKind, has_take
from services.library.store import FolderStore

DAY = "2025/11/07"
MUSIC = b"music"


@pytest.fixture
def output(tmp_path, sqlite_database):
    folder = tmp_path / "outputs"
    folder.mkdir()
    return folder


def find_orphans(output, **options):
    return reconcile.find_orphans(FolderStore(output), **options)


def repair_orphans(output, findings):
    return reconcile.repair_orphans(FolderStore(output), findings)


def clean_up_files(output, **options):
    return library_cleanup.clean_up_files(FolderStore(output), **options)


def put(path, data=MUSIC, *, age_seconds=7200.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    then = time.time() - age_seconds
    os.utime(path, (then, then))
    return path


def row(status="completed", *, path=None, metadata=None):
    """Add a generation as the pipeline leaves it; return its id."""
    generation_id = str(uuid.uuid4())
    with storage.get_session() as session:
        made = storage.create_generation(
            session, "a prompt", "composer", 16.0, 48_000, 2,
            path or f"{DAY}/{generation_id}.wav",
            generation_id=generation_id, metadata={"seed": 7, **(metadata or {})},
        )  # fmt: skip
        made.set_status(status, None)
        made.file_size_bytes = len(MUSIC)
        made.file_sha256 = hashlib.sha256(MUSIC).hexdigest()
    return generation_id


def take(output, status="completed", **options):
    """Add a generation with its file; return its id."""
    generation_id = row(status, **options)
    put(output / DAY / f"{generation_id}.wav")
    return generation_id


def read(generation_id):
    with storage.get_session(read_only=True) as session:
        return storage.get_generation(session, generation_id)


def found(output, **options):
    return [(one.kind, one.path) for one in find_orphans(output, **options).orphans]


def repaired(output):
    return [action for _, action in repair_orphans(output, find_orphans(output))]


def everything(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_takes_with_their_files_are_no_orphans(output):
    for _ in range(3):
        take(output)
    findings = find_orphans(output, deep=True)
    assert (findings.files, findings.generations, findings.orphans) == (3, 3, ())


def test_an_empty_library_has_no_orphans(tmp_path, sqlite_database):
    assert find_orphans(tmp_path / "none").orphans == ()
    assert clean_up_files(tmp_path / "none", max_bytes=0, dry_run=False).files == ()


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_file_without_a_completed_generation_is_unclaimed(output, status):
    loose = put(output / DAY / "loose.wav")
    left_over = take(output, status)
    expected = sorted([f"{DAY}/{loose.name}", f"{DAY}/{left_over}.wav"])
    assert found(output) == [(OrphanKind.UNCLAIMED, path) for path in expected]


@pytest.mark.parametrize("status", ["pending", "processing"])
def test_the_file_of_an_unfinished_job_is_no_orphan(output, status):
    take(output, status)
    assert found(output) == []


@pytest.mark.parametrize("name", ["loose.wav", ".dgx-0123456789abcdef.part"])
def test_a_young_file_is_no_orphan(output, name):
    put(output / DAY / name, age_seconds=60)
    assert found(output) == []


@pytest.mark.parametrize("name", ["{}.mid", "{}.raw.wav", "{}/bass.wav", "{}/stems/a.b.wav"])
def test_a_file_beside_a_take_with_its_name_is_no_orphan(output, name):
    put(output / DAY / name.format(take(output)))
    assert found(output) == []


@pytest.mark.parametrize("name", ["{}2.wav", "x{}.wav", "other/{}.wav"])
def test_a_file_with_a_similar_name_is_unclaimed(output, name):
    path = put(output / DAY / name.format(take(output)))
    assert found(output) == [(OrphanKind.UNCLAIMED, path.relative_to(output).as_posix())]


@pytest.mark.parametrize("name", ["song.wav", "album/01.flac", "2025/notes.txt", ".hidden"])
def test_files_outside_the_day_folders_are_left_alone(output, name):
    path = put(output / name)
    assert found(output) == []
    assert clean_up_files(output, max_bytes=0, dry_run=False).files == ()
    assert path.exists()


def test_an_unclaimed_file_is_moved_and_replaces_no_other(output):
    for data in (b"first", b"second", b"third"):
        put(output / DAY / "loose.wav", data)
        repaired(output)
    assert everything(output) == [f"{LOST_AND_FOUND}/{DAY}/loose{n}.wav" for n in ("-2", "-3", "")]
    assert (output / LOST_AND_FOUND / DAY / "loose.wav").read_bytes() == b"first"
    assert not (output / DAY).exists()
    findings = find_orphans(output)
    assert (findings.files, findings.orphans) == (0, ())


def test_the_repair_names_the_new_place_of_a_file(output):
    put(output / DAY / "loose.wav")
    assert repaired(output) == [f"moved to {LOST_AND_FOUND}/{DAY}/loose.wav"]


def test_an_unfinished_file_is_deleted(output):
    path = put(output / "2025" / temporary_name())
    assert found(output) == [(OrphanKind.TEMPORARY, f"2025/{path.name}")]
    assert repaired(output) == ["deleted"]
    assert everything(output) == []


def test_a_missing_file_is_recorded_and_the_rest_of_the_row_kept(output):
    generation_id = row(metadata={"bpm": 120})
    before = read(generation_id)
    (orphan,) = find_orphans(output).orphans
    assert (orphan.kind, orphan.generation_id) == (OrphanKind.MISSING, generation_id)
    repair_orphans(output, find_orphans(output))
    after = read(generation_id)
    assert has_take(before)
    assert not has_take(after)
    assert after.status == "completed"
    assert after.completed_at == before.completed_at
    assert "seed" in after.error_message
    assert after.file_size_bytes is None
    assert after.get_metadata()[FILE_MISSING]["size_bytes"] == len(MUSIC)
    assert after.get_metadata()["seed"] == 7
    assert found(output) == []


def test_a_file_that_is_back_unchanged_is_recorded(database, tmp_path):
    output = tmp_path / "outputs"
    output.mkdir()
    generation_id = row()
    before = read(generation_id).to_dict()
    repaired(output)
    path = put(output / DAY / f"{generation_id}.wav", b"other")
    assert found(output) == [(OrphanKind.CHANGED, f"{DAY}/{generation_id}.wav")]
    assert repaired(output) == [None]
    assert not has_take(read(generation_id))
    put(path)
    assert found(output) == [(OrphanKind.RETURNED, f"{DAY}/{generation_id}.wav")]
    assert repaired(output) == ["recorded in the database"]
    assert read(generation_id).to_dict() == before


def test_a_file_of_another_size_is_reported_and_left_alone(output):
    generation_id = take(output)
    path = put(output / DAY / f"{generation_id}.wav", b"longer than before")
    assert found(output) == [(OrphanKind.CHANGED, f"{DAY}/{generation_id}.wav")]
    assert repaired(output) == [None]
    assert path.exists()
    assert has_take(read(generation_id))


def test_other_bytes_of_the_same_size_are_found_by_a_deep_check(output):
    generation_id = take(output)
    put(output / DAY / f"{generation_id}.wav", b"MUSIC")
    assert found(output) == []
    assert found(output, deep=True) == [(OrphanKind.CHANGED, f"{DAY}/{generation_id}.wav")]


def test_without_the_output_folder_no_file_is_called_missing(output):
    generation_id = row()
    output.rmdir()
    with pytest.raises(OutputError, match=r"not there. Mount"):
        find_orphans(output)
    assert has_take(read(generation_id))


def test_what_changed_between_check_and_repair_is_left_alone(output):
    generation_id = row()
    put(output / DAY / "loose.wav")
    findings = find_orphans(output)
    with storage.get_session() as session:
        storage.delete_generation(session, generation_id)
    (output / DAY / "loose.wav").unlink()
    actions = {one.kind: action for one, action in repair_orphans(output, findings)}
    assert actions == {OrphanKind.MISSING: None, OrphanKind.UNCLAIMED: "gone meanwhile"}
    assert everything(output) == []


def test_a_file_that_cannot_be_moved_is_an_error(output):
    put(output / DAY / "loose.wav")
    put(output / LOST_AND_FOUND / "2025")
    with pytest.raises(OutputError, match=r"loose.wav cannot be moved to .*2025"):
        repaired(output)


@pytest.mark.parametrize(
    "path", ["../secret/f.wav", "out/f.wav", "/etc/hostname", "link.wav", ".."]
)
def test_a_path_out_of_the_store_is_reported_and_nothing_is_changed(output, path):
    secret = put(output.parent / "secret" / "f.wav")
    (output / "out").symlink_to(secret.parent)
    (output / "link.wav").symlink_to(secret)
    generation_id = row(path=path)
    assert found(output, deep=True) == [(OrphanKind.UNREACHABLE, path)]
    assert repaired(output) == [None]
    assert has_take(read(generation_id))
    clean_up_files(output, max_bytes=0, dry_run=False)
    assert secret.read_bytes() == MUSIC


@pytest.mark.parametrize("link", [LOST_AND_FOUND, f"{LOST_AND_FOUND}/2025"])
def test_nothing_is_moved_through_a_link(output, link):
    secret = output.parent / "secret"
    secret.mkdir()
    (output / link).parent.mkdir(exist_ok=True)
    (output / link).symlink_to(secret)
    loose = put(output / DAY / "loose.wav")
    with pytest.raises(OutputError, match="outside"):
        repaired(output)
    assert loose.exists()
    assert everything(secret) == []


NAMES = st.sampled_from(["..", ".", "2025", "11", "07", "out", "loop", "f.wav", "a.wav", "é", ""])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(NAMES, min_size=1, max_size=6), front=st.sampled_from(["", "/"]))
def test_no_path_in_a_row_makes_repairs_change_files_outside(output, parts, front):
    secret = output.parent / "secret"
    put(secret / "f.wav")
    put(output / DAY / "a.wav")
    if not (output / "out").is_symlink():
        (output / "out").symlink_to(secret)
        (output / "loop").symlink_to(output / "loop")
    with storage.get_session() as session:
        for old in storage.get_all_generations(session):
            storage.delete_generation(session, old.id)
    row(path=front + "/".join(parts))
    repair_orphans(output, find_orphans(output, deep=True))
    clean_up_files(output, older_than_days=0, max_bytes=0, dry_run=False)
    assert everything(secret) == ["f.wav"]
    assert (secret / "f.wav").read_bytes() == MUSIC
    assert {p.name for p in output.parent.iterdir()} == {"outputs", "secret", "data"}


def test_removing_files_keeps_the_generations_and_records_the_loss(output):
    old, new = take(output), row()
    path = put(output / "2025/11/08" / f"{new}.wav")
    with storage.get_session() as session:
        storage.get_generation(session, new).file_path = path.relative_to(output).as_posix()
    shown = clean_up_files(output, max_bytes=len(MUSIC))
    assert [file.relative for file in shown.files] == [f"{DAY}/{old}.wav"]
    assert (shown.deleted, len(everything(output)), has_take(read(old))) == (False, 2, True)
    done = clean_up_files(output, max_bytes=len(MUSIC), dry_run=False)
    assert (done.deleted, done.kept_files, done.kept_bytes) == (True, 1, len(MUSIC))
    assert everything(output) == [f"2025/11/08/{new}.wav"]
    assert not (output / DAY).exists()
    assert not has_take(read(old))
    assert "free space" in read(old).error_message
    assert has_take(read(new))
    assert found(output) == []


def test_files_that_are_too_old_or_too_many_are_removed(output):
    for name, age in (("a", 9), ("b", 5), ("c", 1), ("d", 0)):
        put(output / DAY / f"{name}.wav", age_seconds=age * 86_400)
    now = f"{time.strftime('%Y/%m/%d', time.gmtime())}"
    (output / DAY).rename(output / "day")
    (output / now).parent.mkdir(parents=True, exist_ok=True)
    (output / "day").rename(output / now)
    assert [Path(f.relative).stem for f in clean_up_files(output, older_than_days=4).files] == [
        *"ab"
    ]
    both = clean_up_files(output, older_than_days=4, max_bytes=len(MUSIC))
    assert [Path(file.relative).stem for file in both.files] == [*"abc"]


@pytest.mark.parametrize("status", ["pending", "processing"])
def test_the_file_of_an_unfinished_job_is_not_removed(output, status):
    generation_id = take(output, status)
    assert clean_up_files(output, older_than_days=0, max_bytes=0, dry_run=False).files == ()
    assert everything(output) == [f"{DAY}/{generation_id}.wav"]


def test_lost_and_found_files_can_be_cleaned_up(output):
    put(output / DAY / "loose.wav")
    repaired(output)
    assert len(clean_up_files(output, older_than_days=0, dry_run=False).files) == 1
    assert everything(output) == []
    assert output.is_dir()


def test_a_database_cleanup_counts_no_bytes_of_removed_files(output):
    generation_id = take(output)
    clean_up_files(output, max_bytes=0, dry_run=False)
    with storage.get_session() as session:
        gone = storage.cleanup_generations(session, older_than_days=0, dry_run=False)
    assert [(one.id, one.file_size_bytes) for one in gone.expired] == [(generation_id, 0)]


def test_hundreds_of_files_and_rows_are_classified(output):
    kept = [take(output) for _ in range(150)]
    missing = [row() for _ in range(150)]
    loose = [put(output / DAY / f"loose-{n}.wav") for n in range(150)]
    findings = find_orphans(output)
    assert (findings.files, findings.generations) == (300, 300)
    kinds = [one.kind for one in findings.orphans]
    assert (kinds.count(OrphanKind.MISSING), kinds.count(OrphanKind.UNCLAIMED)) == (150, 150)
    assert None not in repaired(output)
    assert found(output) == []
    assert all(has_take(read(one)) for one in kept)
    assert not any(has_take(read(one)) for one in missing)
    assert len(everything(output / LOST_AND_FOUND)) == len(loose)


def test_more_rows_than_a_page_are_all_read(output, monkeypatch):
    monkeypatch.setattr("services.library.reconcile._PAGE", 2)
    for _ in range(5):
        take(output)
    assert find_orphans(output) == find_orphans(output)
    assert find_orphans(output).generations == 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("1234", 1234),
        ("10GB", 10**10),
        ("10 gb", 10**10),
        ("1.5GiB", 3 * 2**29),
        ("500m", 5 * 10**8),
        (" 2 TiB ", 2**41),
        ("3kB", 3000),
    ],
)
def test_a_size_can_have_a_unit(text, expected):
    assert parse_size(text) == expected


@pytest.mark.parametrize("text", ["", "ten", "10 apples", "-5", "1e3", "5 GB 3", ".5GB", "inf"])
def test_text_that_is_no_size_is_refused(text):
    with pytest.raises(InvalidRequestError, match="10GB"):
        parse_size(text)


def test_a_cleanup_without_a_limit_is_refused():
    with pytest.raises(InvalidRequestError, match="--older-than DAYS"):
        cleanup()
