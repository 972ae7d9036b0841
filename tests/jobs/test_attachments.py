"""Stems and MIDI of a job, from its request to its deletion."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from services import storage
from services.config import Settings
from services.errors import InvalidRequestError, OutputError, UnknownGenerationError
from services.jobs import publication
from services.jobs.attachments import find_midi, find_stem, list_attached, local_attachment
from services.jobs.making import JobMaker
from services.jobs.models import parse_request
from services.jobs.resubmission import check_again
from services.jobs.service import MusicService
from services.library.cleanup import clean_up_files
from services.library.orders import Order
from services.library.reconcile import OrphanKind, find_orphans, has_take, repair_orphans
from tests.worker.conftest import load_engines

if TYPE_CHECKING:
    from services.jobs.attempt_token import AttemptToken

pytestmark = pytest.mark.integration

CHOIR = {"prompt": "sleep 0", "duration": 1, "model": "choir"}
BOTH = {"stems": True, "midi": True}


@pytest.fixture
def service(sqlite_url_with_tables, tmp_path, monkeypatch):
    monkeypatch.setenv("DGX_MUSIC_TEST_LEDGER", str(tmp_path / "ledger"))
    settings = Settings(
        DATABASE_URL=sqlite_url_with_tables, output_dir=tmp_path / "outputs", model_name="puppet"
    )
    return MusicService(settings, load_engines().registry())


def make(service, **fields):
    checked = service.check(parse_request(**CHOIR | fields))
    return JobMaker(service).make(checked, lambda *_: None, lambda: False)


def list_files(service) -> list[str]:
    folder = service.settings.output_dir
    return sorted(str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file())


def size_of(service, names) -> int:
    return sum((service.settings.output_dir / name).stat().st_size for name in names)


def names_of(job) -> list[str]:
    base = f"{job.created_at:%Y/%m/%d}/{job.job_id}"
    return sorted(f"{base}{end}" for end in (".wav", ".mid", ".stems/high.wav", ".stems/low.wav"))


def test_stems_and_midi_are_published_with_their_take(service):
    job = make(service, **BOTH)
    assert list_files(service) == names_of(job)
    attached = list_attached(service, job.job_id)
    assert [(one.kind, one.name) for one in attached] == [
        ("stem", "high"), ("stem", "low"), ("midi", "score"),
    ]  # fmt: skip
    for one in attached:
        data = local_attachment(service, one).read_bytes()
        assert one.file == str(service.settings.output_dir / one.file_path)
        assert (one.bytes, one.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert find_stem(service, job.job_id, "low") in attached
    assert find_midi(service, job.job_id) == attached[-1]
    assert (job.metadata["stems"], job.metadata["midi"]) == (True, True)


def test_a_job_without_stems_says_how_to_get_them(service):
    job = make(service, midi=True)
    with pytest.raises(UnknownGenerationError, match=r'without stems.*"stems": true'):
        find_stem(service, job.job_id, "low")
    other = make(service, stems=True)
    with pytest.raises(UnknownGenerationError, match="no stem 'drums'; it has high, low"):
        find_stem(service, other.job_id, "drums")
    with pytest.raises(UnknownGenerationError, match=r'without MIDI.*"midi": true'):
        find_midi(service, other.job_id)


@pytest.mark.parametrize("field", ["stems", "midi"])
def test_an_engine_without_parts_refuses(service, field):
    request = parse_request(prompt="sleep 0", duration=1, model="puppet", **{field: True})
    with pytest.raises(InvalidRequestError, match=r"'puppet' cannot keep .*'choir' can\."):
        service.check(request)


def test_a_failed_job_sent_again_still_asks_for_stems(service):
    job_id = service.submit(parse_request(**CHOIR, **BOTH)).job_id
    with storage.get_session() as session:
        storage.update_generation_status(session, job_id, "failed", "The disk was full.")
    request = check_again(service, job_id).request
    assert (request.stems, request.midi) == (True, True)


def test_a_disk_that_refuses_one_stem_leaves_no_file(service, monkeypatch):
    publish = type(service.store).publish

    def refuse(store, draft, name):
        if name.endswith("low.wav"):
            raise OutputError("The disk is full.")
        publish(store, draft, name)

    monkeypatch.setattr(type(service.store), "publish", refuse)
    # The take of an earlier attempt is not cleaned up by what follows.
    monkeypatch.setattr("services.jobs.pipeline.try_remove_leftovers", lambda *_: None)
    with pytest.raises(OutputError, match="disk is full"):
        make(service, **BOTH)
    (job,) = service.history().jobs
    assert job.status == "failed"
    assert list_files(service) == []
    assert list_attached(service, job.job_id) == []


def test_an_attempt_that_lost_its_job_publishes_no_stem(service, monkeypatch):
    monkeypatch.setattr("services.jobs.pipeline.publish_take", lose)
    with pytest.raises(Exception, match="cancelled while it ran"):
        make(service, **BOTH)
    (job,) = service.history().jobs
    assert list_files(service) == []
    assert list_attached(service, job.job_id) == []


def lose(order: Order, token: AttemptToken, take: object, store: object) -> bool:
    """Publish after another attempt got the job."""
    with storage.get_session() as session:
        row = storage.lock_generation(session, order.generation_id)
        assert row is not None
        row.attempt_token = "another"
    return publication.publish_take(order, token, take, store)  # type: ignore[arg-type]


def test_files_of_a_published_set_are_no_orphans_and_others_in_its_folder_are(service, monkeypatch):
    monkeypatch.setattr("services.library.reconcile.GRACE_SECONDS", -10.0)
    job = make(service, **BOTH)
    assert find_orphans(service.store, deep=True).orphans == ()
    stray = service.settings.output_dir / names_of(job)[1]
    stray = stray.with_name("stray.wav")
    stray.write_bytes(b"x")
    (orphan,) = find_orphans(service.store).orphans
    assert (orphan.kind, Path(orphan.path).name) == (OrphanKind.UNCLAIMED, "stray.wav")


def test_a_missing_and_a_changed_stem_are_found_and_only_the_missing_is_forgotten(service):
    job = make(service, **BOTH)
    low, high = (find_stem(service, job.job_id, name) for name in ("low", "high"))
    Path(low.file).unlink()
    data = bytearray(Path(high.file).read_bytes())
    data[100] ^= 1
    Path(high.file).write_bytes(data)
    findings = find_orphans(service.store, deep=True)
    assert [(one.kind, one.path) for one in findings.orphans] == [
        (OrphanKind.CHANGED, high.file_path),
        (OrphanKind.MISSING, low.file_path),
    ]
    done = [action for _, action in repair_orphans(service.store, findings)]
    assert done == [None, "removed from the database"]
    assert [one.name for one in list_attached(service, job.job_id)] == ["high", "score"]
    assert service.get(job.job_id).file is not None


@pytest.mark.parametrize(("oldest", "kept"), [(".stems/high.wav", [".wav"]), (".wav", [])])
def test_a_clean_up_by_size_removes_whole_sets_with_their_rows(service, oldest, kept):
    first, second = make(service, **BOTH), make(service, **BOTH)
    for name in names_of(first):
        os.utime(service.settings.output_dir / name, (1e9, 1e9))
    base = names_of(first)[0].removesuffix(".mid")
    os.utime(service.settings.output_dir / f"{base}{oldest}", (9e8, 9e8))
    total = size_of(service, list_files(service))
    plan = clean_up_files(service.store, max_bytes=total - 1, dry_run=False)
    left = sorted([*names_of(second), *(f"{base}{end}" for end in kept)])
    assert list_files(service) == left
    assert (plan.kept_files, len(plan.files)) == (len(left), 8 - len(left))
    assert list_attached(service, first.job_id) == []
    assert len(list_attached(service, second.job_id)) == 3
    assert (service.get(first.job_id).file is not None) == bool(kept)


def test_a_clean_up_of_everything_leaves_no_file_and_no_row_of_one(service):
    job = make(service, **BOTH)
    clean_up_files(service.store, max_bytes=0, dry_run=False)
    assert list_files(service) == []
    assert list_attached(service, job.job_id) == []
    with storage.get_session(read_only=True) as session:
        assert not has_take(storage.get_generation(session, job.job_id))
    assert find_orphans(service.store).orphans == ()


def test_deleted_generations_name_the_files_that_go_with_them(service):
    job = make(service, **BOTH)
    with storage.get_session() as session:
        gone = storage.cleanup_generations(session, older_than_days=0, dry_run=False)
    assert sorted(gone.file_paths) == names_of(job)
    assert gone.total_bytes == size_of(service, names_of(job))
    assert list_attached(service, job.job_id) == []


def test_rows_of_stems_are_in_a_backup_and_in_a_move(service, tmp_path):
    job = make(service, **BOTH)
    before = list_attached(service, job.job_id)
    with storage.get_session(read_only=True) as session:
        total = storage.sum_file_bytes(session)
    assert total == size_of(service, names_of(job))
    storage.backup_database(tmp_path / "backup.db")
    with storage.get_session() as session:
        storage.delete_generation(session, job.job_id)
    assert list_attached(service, job.job_id) == []
    storage.restore_database(tmp_path / "backup.db", force=True)
    assert list_attached(service, job.job_id) == before
    url = f"sqlite:///{tmp_path / 'other.db'}"
    storage.close_db()
    move = storage.move_database(url, str(service.settings.database_url))
    assert {one.name: one.rows for one in move.tables}["attachments"] == 3
    storage.init_db(url)
    assert list_attached(service, job.job_id) == before


def test_an_order_is_read_from_its_row(service):
    job_id = service.submit(parse_request(**CHOIR, **BOTH)).job_id
    plain_id = service.submit(parse_request(**CHOIR)).job_id
    with storage.get_session(read_only=True) as session:
        rows = storage.get_generations(session, [job_id, plain_id])
        orders = {row.id: Order.of(row) for row in rows}
    assert (orders[job_id].params.stems, orders[job_id].midi) == (True, True)
    assert (orders[plain_id].params.stems, orders[plain_id].midi) == (False, False)
    assert replace(orders[job_id].params, seed=0, stems=False) == replace(
        orders[plain_id].params, seed=0
    )
