"""Failed jobs sent again."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile as sf

from services import storage
from services.config import Settings
from services.errors import JobNotFailedError, UnknownGenerationError
from services.jobs.making import JobMaker
from services.jobs.models import parse_request
from services.jobs.resubmission import check_again, list_failed
from services.jobs.service import MusicService
from tests.worker.conftest import load_engines

pytestmark = pytest.mark.integration


@pytest.fixture
def service(sqlite_url_with_tables, tmp_path, monkeypatch):
    monkeypatch.setenv("DGX_MUSIC_TEST_LEDGER", str(tmp_path / "ledger"))
    settings = Settings(
        DATABASE_URL=sqlite_url_with_tables, output_dir=tmp_path / "outputs", model_name="puppet"
    )
    return MusicService(settings, load_engines().registry())


def fail(service, **fields) -> str:
    request = parse_request(**{"prompt": "sleep 0", "duration": 1} | fields)
    job_id = service.submit(request).job_id
    with storage.get_session() as session:
        storage.update_generation_status(session, job_id, "failed", "The disk was full.")
        storage.remove_queue_entry(session, job_id)
    return job_id


def test_a_failed_job_is_asked_for_again_with_all_that_it_asked_for(service):
    given = {
        "prompt": "sleep 0.1", "duration": 2.5, "seed": 7, "temperature": 1.5, "top_k": 9,
        "top_p": 0.5, "cfg_coef": 2.0, "model": "other",
    }  # fmt: skip
    old = fail(service, **given)
    checked = check_again(service, old[:8])
    assert checked.parent == old
    assert checked.request == parse_request(**given)
    (new,) = service.enqueue([checked])
    assert new.metadata["parent"] == old
    assert (new.status, new.model, new.seed) == ("pending", "other", 7)
    assert service.get(old).metadata["sent_again_as"] == new.job_id
    assert service.get(old).status == "failed"


def test_a_drawn_seed_is_kept(service):
    old = fail(service)
    assert check_again(service, old).request.seed == service.get(old).seed


def test_audio_that_a_job_works_from_is_named_again(service, tmp_path):
    path = tmp_path / "melody.wav"
    times = np.arange(96_000) / 48_000
    sf.write(path, 0.5 * np.sin(2 * np.pi * 220 * times), 48_000)
    checked = service.check(parse_request(prompt="sleep 0", duration=1, model="choir"), melody=path)
    (job,) = service.enqueue([checked])
    service.cancel(job.job_id)
    again = check_again(service, job.job_id)
    assert again.request.melody == checked.request.melody
    (new,) = service.enqueue([again])
    assert new.metadata["melody_sha256"] == checked.request.melody


@pytest.mark.parametrize("status", ["pending", "processing", "completed"])
def test_a_job_that_has_not_failed_is_refused(service, status):
    job_id = service.submit(parse_request(prompt="sleep 0", duration=1)).job_id
    with storage.get_session() as session:
        storage.update_generation_status(session, job_id, status)
    with pytest.raises(JobNotFailedError, match=f"is {status}"):
        check_again(service, job_id)


def test_an_unknown_job_is_refused(service):
    with pytest.raises(UnknownGenerationError):
        check_again(service, "feedbeef")


def test_failed_jobs_are_listed_oldest_first_until_they_are_sent_again(service):
    first, second, third = (fail(service) for _ in range(3))
    service.submit(parse_request(prompt="sleep 0", duration=1))
    assert list_failed() == [first, second, third]
    job = JobMaker(service).make(
        check_again(service, second), lambda _step, _fraction: None, lambda: False
    )
    assert job.status == "completed"
    assert list_failed() == [first, third]


def test_a_job_whose_successor_was_cancelled_is_listed_again(service):
    old = fail(service)
    (new,) = service.enqueue([check_again(service, old)])
    assert list_failed() == []
    service.cancel(new.job_id)
    assert list_failed() == [old]


@pytest.mark.parametrize("is_queued", [True, False])
def test_the_new_job_belongs_to_the_owner_of_the_old_one(service, is_queued):
    old = service.submit(parse_request(prompt="sleep 0", duration=1), owner="somebody").job_id
    service.cancel(old)
    checked = check_again(service, old)
    if is_queued:
        (new,) = service.enqueue([checked], owner="the-operator")
        new_id = new.job_id
    else:
        new_id = JobMaker(service).prepare(checked).generation_id
    assert service.get(new_id).owner == "somebody"
