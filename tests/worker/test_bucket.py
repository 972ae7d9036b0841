"""Workers whose files go to a bucket, on one machine and on two."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from services import storage
from services.config import Settings
from services.errors import OutputError
from services.jobs import failpoints
from services.jobs.dispatch import Dispatch
from services.jobs.models import parse_request
from services.library.attachments import Attachment
from services.library.store import FileStore, open_store, sha256_of
from services.library.takes import Take
from services.worker.claims import Claims
from tests.worker.conftest import SHORT_TTL, make

if TYPE_CHECKING:
    from services.jobs.service import MusicService
    from tests.worker.conftest import Rig

pytestmark = pytest.mark.integration

# Where a worker is killed -> what the row is then, and how many uploads the bucket has.
KILLED_AT = {
    "upload-done": ("processing", 1),
    "publish-before-commit": ("processing", 1),
    "publish-after-commit": ("completed", 1),
}


@pytest.fixture
def bucket_rig(sqlite_url: str, bucket_url: str, make_rig: Callable[..., Rig]) -> Rig:
    return make_rig(sqlite_url, file_store=bucket_url)


def uploads(store: FileStore) -> list[str]:
    return sorted(file.relative for file in store.list())


def row_of(job_id: str) -> storage.Generation:
    with storage.get_session(read_only=True) as session:
        row = storage.get_generation(session, job_id)
    assert row is not None
    return row


def is_frozen(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    return status.rpartition(")")[2].split()[0] == "T"


def assert_settled(rig: Rig, job_ids: list[str]) -> None:
    """Check that no job is lost and no file is partial, in the bucket and on this machine."""
    rig.finished(job_ids)
    rows = [row_of(job_id) for job_id in job_ids]
    expected = sorted(row.file_path for row in rows if row.is_complete)
    rig.until(lambda: uploads(rig.service.store) == expected)
    rig.until(lambda: rig.files() == set())
    for row in rows:
        if row.is_complete:
            assert sha256_of(rig.service.store, row.file_path) == row.file_sha256
    with storage.get_session(read_only=True) as session:
        assert storage.list_queue_entries(session) == []


@pytest.mark.parametrize("point", KILLED_AT)
def test_a_worker_killed_around_the_upload_loses_nothing(bucket_rig: Rig, point: str) -> None:
    status, count = KILLED_AT[point]
    dead = bucket_rig.fail_at(point)
    (job_id,) = bucket_rig.submit("sleep 0")
    assert bucket_rig.ended(dead) == failpoints.EXIT_CODE
    assert row_of(job_id).status == status
    assert len(uploads(bucket_rig.service.store)) == count
    bucket_rig.worker()
    (job,) = bucket_rig.finished([job_id])
    assert job.status == "completed"
    assert job.file == bucket_rig.service.store.display_path(row_of(job_id).file_path)
    if point == "publish-after-commit":
        # No worker takes over a completed job: its draft is removed a day later.
        assert len(bucket_rig.files()) == 1
        assert uploads(bucket_rig.service.store) == [row_of(job_id).file_path]
    else:
        assert_settled(bucket_rig, [job_id])


def test_a_resumed_worker_removes_its_upload_and_replaces_nothing(bucket_rig: Rig) -> None:
    frozen = bucket_rig.fail_at("upload-done:freeze", worker_ttl_seconds=SHORT_TTL)
    (job_id,) = bucket_rig.submit("sleep 0")
    bucket_rig.until(lambda: is_frozen(frozen.pid))
    (zombie,) = uploads(bucket_rig.service.store)
    bucket_rig.worker(worker_ttl_seconds=SHORT_TTL)
    bucket_rig.finished([job_id])
    before = row_of(job_id)
    frozen.send_signal(signal.SIGCONT)
    bucket_rig.ended(frozen)
    assert_settled(bucket_rig, [job_id])
    after = row_of(job_id)
    assert (after.file_path, after.file_sha256) == (before.file_path, before.file_sha256)
    assert after.file_path != zombie


def test_an_upload_of_a_cancelled_job_is_refused_and_removed(bucket_rig: Rig) -> None:
    (job_id,) = bucket_rig.submit("sleep 0")
    service = bucket_rig.service
    claims = Claims(service.settings, service.queue, "here", service.store)
    attempt = claims.claim(Dispatch(job_id, 1))
    assert attempt is not None
    draft = Path(claims.draft_path(attempt))
    draft.parent.mkdir(parents=True)
    draft.write_bytes(b"music")
    digest = hashlib.sha256(b"music").hexdigest()
    attachments = tuple(
        Attachment(kind, name, str(draft), 5, digest)
        for kind, name in (("stem", "drums"), ("midi", "score"))
    )
    take = Take(
        path=draft, bytes=5, sha256=digest, seconds=1.0, metadata={}, measurements={},
        attachments=attachments,
    )  # fmt: skip
    with storage.get_session() as session:
        assert storage.cancel_generation(session, job_id)
        storage.remove_queue_entry(session, job_id)
    claims.upload(attempt, take)
    assert len(uploads(service.store)) == 3
    assert not claims.publish(attempt, take)
    claims.clean_up(attempt)
    assert_settled(bucket_rig, [job_id])


def test_a_worker_without_its_bucket_does_not_start(bucket_rig: Rig) -> None:
    refused = bucket_rig.begin_worker(file_store="s3://no-such-bucket")
    assert bucket_rig.ended(refused) != 0
    assert "There is no bucket 'no-such-bucket'" in bucket_rig.log


def test_a_job_is_refused_when_its_bucket_is_missing(
    sqlite_url: str, bucket_url: str, make_rig: Callable[..., Rig]
) -> None:
    rig = make_rig(sqlite_url, file_store="s3://no-such-bucket")
    with pytest.raises(OutputError, match="There is no bucket 'no-such-bucket'"):
        make(rig.service, parse_request(prompt="sleep 0", duration=1))
    assert rig.service.history().jobs == []


@pytest.mark.postgres
def test_another_machine_takes_over_a_job_and_reads_its_file(
    postgres_url: str, bucket_url: str, make_rig: Callable[..., Rig], tmp_path: Path
) -> None:
    rig = make_rig(postgres_url, file_store=bucket_url)
    first, second = tmp_path / "first", tmp_path / "second"
    dead = rig.fail_at("upload-done", output_dir=first)
    (job_id,) = rig.submit("sleep 0")
    assert rig.ended(dead) == failpoints.EXIT_CODE
    rig.worker(output_dir=second)
    (other,) = rig.submit("sleep 0")
    assert {job.status for job in rig.finished([job_id, other])} == {"completed"}
    assert rig.files() == set()
    assert_settled(rig, [job_id, other])
    rows = [row_of(job_id), row_of(other)]
    for row in rows:
        assert row.file_sha256 is not None
        with rig.service.local_copy(row.id).open("rb") as copy:
            assert hashlib.file_digest(copy, "sha256").hexdigest() == row.file_sha256
    elsewhere = open_store(Settings(output_dir=tmp_path / "third", file_store=bucket_url))
    for row in rows:
        assert sha256_of(elsewhere, row.file_path) == row.file_sha256


def test_a_take_made_without_a_worker_is_stored_in_the_bucket(
    bucket_rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    service: MusicService = bucket_rig.service
    request = parse_request(prompt="sleep 0", duration=1)
    job = make(service, request)
    assert_settled(bucket_rig, [job.job_id])

    def interrupt(*_arguments: object, **_named: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(storage, "publish_generation", interrupt)
        with pytest.raises(KeyboardInterrupt):
            make(service, request)
    assert uploads(service.store) == [row_of(job.job_id).file_path]


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_a_worker_that_lost_the_job_removes_no_file_of_its_holder(
    kind: str,
    sqlite_url: str,
    bucket_url: str,
    make_rig: Callable[..., Rig],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = make_rig(sqlite_url, **({"file_store": bucket_url} if kind == "bucket" else {}))
    (job_id,) = rig.submit("sleep 0")
    dispatch = Dispatch(job_id, 1)
    store = rig.service.store
    claims = Claims(rig.service.settings, rig.service.queue, "late", store)
    with storage.get_session() as session:
        assert storage.claim_generation(session, job_id, f"{dispatch.workflow_id}/gone/1")

    def take_over_and_publish(point: str) -> None:
        """Act as another worker while this one is delayed after its commit."""
        if point != "attempt-after-commit":
            return
        name = store.final_name(row_of(job_id).file_path, "other")
        draft = rig.outputs / "draft"
        draft.write_bytes(b"music")
        (rig.outputs / name).parent.mkdir(parents=True, exist_ok=True)
        store.upload(draft, name, hashlib.sha256(b"music").hexdigest())
        store.publish(draft, name)
        with storage.get_session() as session:
            row = storage.lock_generation(session, job_id)
            assert row is not None
            row.mark_completed(1.0)
            row.attempt_token, row.file_path = None, name

    monkeypatch.setattr("services.worker.claims.reach", take_over_and_publish)
    assert claims.claim(dispatch) is not None
    assert sha256_of(store, row_of(job_id).file_path) == hashlib.sha256(b"music").hexdigest()
