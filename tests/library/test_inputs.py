"""Inputs: stored, named by rows, fetched for the engine, and found when unused."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services import storage
from services.config import Settings
from services.errors import FileGoneError, InvalidRequestError, UnknownInputError
from services.jobs.models import GenerationRequest, parse_request
from services.jobs.service import MusicService
from services.library.inputs import fetch_inputs, input_name
from services.library.orders import Order
from services.library.reconcile import OrphanKind, find_orphans, repair_orphans
from services.library.store import FolderStore
from tests.audio.foreign_files import encode
from tests.audio.foreign_files import tone as tone_of
from tests.worker.conftest import load_engines, make

pytestmark = pytest.mark.integration


def tone(path: Path, seconds: float = 1.0, **how: object) -> Path:
    wave = 0.3 * np.sin(np.arange(round(seconds * 16_000)) * 0.1)
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, wave, 16_000, **how)
    return path


def silence(path: Path) -> Path:
    sf.write(path, np.zeros(32_000), 16_000)
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def request_for(**fields: object) -> GenerationRequest:
    return parse_request(prompt="sleep 0", duration=1, **({"model": "choir"} | fields))


def never() -> bool:
    return False


@pytest.fixture
def make_service(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DGX_MUSIC_TEST_LEDGER", str(tmp_path / "ledger"))

    def make(**limits: object) -> MusicService:
        given = {"DATABASE_URL": sqlite_url, "output_dir": tmp_path / "outputs"}
        return MusicService(Settings(**given, **limits), load_engines().registry())

    return make


@pytest.fixture
def service(make_service) -> MusicService:
    return make_service()


def test_an_input_is_stored_once_and_unchanged_under_its_sha256(service, tmp_path):
    song = tone(tmp_path / "song.flac", 2.5)
    first = service.inputs.add(song)
    assert (first.id, first.bytes) == (sha256(song), song.stat().st_size)
    assert (first.seconds, first.sample_rate, first.channels) == (2.5, 16_000, 1)
    assert (first.container, first.is_new) == ("FLAC", True)
    assert not service.inputs.add(song).is_new
    kept = [path for path in (tmp_path / "outputs").rglob("*") if path.is_file()]
    assert kept == [tmp_path / "outputs" / input_name(first.id)]
    assert kept[0].read_bytes() == song.read_bytes()


def test_the_engine_gets_the_inputs_and_the_row_names_them(service, tmp_path):
    song, before = tone(tmp_path / "song.wav"), tone(tmp_path / "before.wav", 2)
    job = make(service, request_for(seed=5), melody=song, continue_from=before)
    assert job.metadata["melody_sha256"] == sha256(song)
    assert job.metadata["continue_from_sha256"] == sha256(before)
    ledger = (tmp_path / "ledger").read_text().split()
    assert {f"melody-{sha256(song)}", f"before-{sha256(before)}"} <= set(ledger)
    assert not list((tmp_path / "outputs").rglob(".dgx-*.part"))


def test_a_completed_job_can_be_continued(service, tmp_path):
    first = make(service, request_for())
    second = make(service, request_for(continue_from=first.job_id))
    assert second.metadata["continue_from_job"] == first.job_id
    assert second.metadata["continue_from_sha256"] == first.file_sha256
    assert f"before-{first.file_sha256}" in (tmp_path / "ledger").read_text()
    with storage.get_session() as session:
        storage.delete_generation(session, first.job_id)
    assert make(service, request_for(melody=first.file_sha256)).status == "completed"


def test_a_job_of_another_owner_looks_like_a_missing_one(service):
    theirs = make(service, request_for()).job_id
    with storage.get_session() as session:
        storage.get_generation(session, theirs).owner = "theirs"
    missing = "0d5e5a3c-8a8c-4c9b-9a55-3f0d6a2f7a11"
    messages = []
    for reference in (theirs, missing):
        with pytest.raises(UnknownInputError) as caught:
            service.submit(request_for(melody=reference), owner="mine")
        messages.append(str(caught.value).replace(reference, "ID"))
    assert messages[0] == messages[1]
    assert service.submit(request_for(melody=theirs), owner="theirs").status == "pending"


def test_a_job_without_audio_is_refused_as_an_input(service):
    waiting = service.submit(request_for()).job_id
    with pytest.raises(UnknownInputError, match="is pending and has no audio"):
        service.submit(request_for(continue_from=waiting))


def test_an_unknown_input_is_refused_before_anything_is_written(service):
    with pytest.raises(UnknownInputError, match="there is no input") as caught:
        service.submit_batch([request_for(), request_for(continue_from="0" * 64)])
    assert caught.value.field == "continue_from"
    assert service.history(count=True).total == 0


@pytest.mark.parametrize(
    ("field", "said"),
    [("melody", "cannot follow a melody"), ("continue_from", "cannot continue other music")],
)
def test_a_model_that_cannot_use_a_file_names_one_that_can(service, tmp_path, field, said):
    song = tone(tmp_path / "song.wav")
    with pytest.raises(InvalidRequestError, match=f"'puppet' {said}.*The model 'choir' can"):
        service.check(request_for(model="puppet"), **{field: song})
    assert not (tmp_path / "outputs" / "inputs").exists()


def test_an_unusable_file_is_refused_with_the_reason(make_service, tmp_path):
    service = make_service(input_max_seconds=3, input_max_bytes=65_536)
    text = tmp_path / "song.mp3"
    text.write_text("la la la")
    empty = tmp_path / "empty.wav"
    empty.touch()
    for path, said in (
        (text, "not audio"),
        (empty, "not audio"),
        (tone(tmp_path / "long.ogg", 3.5), "longer than 3 s"),
        (tone(tmp_path / "large.wav", 2.5), "over 0.0625 MiB"),
        (tmp_path / "nothing.wav", "There is no audio file"),
        (tmp_path, "There is no audio file"),
        (tone(tmp_path / "short.wav", 0.9), "lasts 0.90 s, and at least 1 s are needed"),
        (silence(tmp_path / "silent.wav"), "is silent"),
        (tmp_path / ("a" * 300), "File name too long"),
    ):
        with pytest.raises(InvalidRequestError, match=said) as caught:
            service.inputs.add(path)
        assert str(path) in str(caught.value) or "MiB" in said
        assert ".dgx" not in str(caught.value)
    assert not [path for path in (tmp_path / "outputs").rglob("*") if path.is_file()]


@given(data=st.binary(max_size=4096))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_stored_or_refused_in_a_sentence(make_service, tmp_path, data):
    service = make_service()
    for start in (b"", b"RIFF\x24\x00\x00\x00WAVEfmt ", b"fLaC\x00\x00\x00\x22", b"OggS\x00\x02"):
        path = tmp_path / "song"
        path.write_bytes(start + data)
        try:
            kept = service.inputs.add(path)
        except InvalidRequestError as error:
            assert str(error).endswith(".")  # noqa: PT017
        else:
            assert service.store.exists(input_name(kept.id))


def test_files_that_ffmpeg_reads_are_inputs_and_a_mix_is_said_to_be_one(service, tmp_path):
    song = tmp_path / "song.m4a"
    song.write_bytes(encode(tone_of(1.5, 6), "aac", "mp4", layout="5.1")[0])
    kept = service.inputs.add(song)
    assert (kept.container, kept.channels) == ("MP4", 2)
    assert kept.seconds == pytest.approx(1.5, abs=0.05)
    assert kept.remarks[0].startswith("mixed down from 5.1 to stereo by ITU-R BS.775")
    checked = service.check(request_for(), melody=song)
    assert checked.remarks == (f"{song} is {kept.remarks[0]}.",)


def test_a_bucket_keeps_inputs_too(make_service, bucket_url, tmp_path):
    service = make_service(file_store=bucket_url)
    song = tone(tmp_path / "song.flac")
    job = make(service, request_for(), melody=song)
    assert f"melody-{sha256(song)}" in (tmp_path / "ledger").read_text()
    assert {file.relative for file in service.store.list()} >= {input_name(sha256(song))}
    again = make(
        service, request_for(melody=job.metadata["melody_sha256"], continue_from=job.job_id)
    )
    assert f"before-{job.file_sha256}" in (tmp_path / "ledger").read_text()
    assert again.status == "completed"


def test_a_missing_input_is_reported(service, tmp_path):
    song = service.inputs.add(tone(tmp_path / "song.wav"))
    job = service.submit(request_for(melody=song.id))
    service.store.delete(input_name(song.id))
    with storage.get_session(read_only=True) as session:
        order = Order.of(storage.get_generation(session, job.job_id))
    with pytest.raises(FileGoneError, match="names as its melody is gone"):
        fetch_inputs(order, tmp_path / "draft" / "take.part", service.store)


def test_only_an_old_input_that_no_row_names_is_unclaimed(service, tmp_path):
    used, unused, young = (service.inputs.add(tone(tmp_path / f"{n}.wav", n)).id for n in (1, 2, 3))
    make(service, request_for(melody=used))
    theirs = tone(tmp_path / "outputs" / "inputs" / "song.wav")
    then = time.time() - 2 * 86_400
    for name in (input_name(used), input_name(unused), "inputs/song.wav"):
        os.utime(tmp_path / "outputs" / name, (then, then))
    store = FolderStore(tmp_path / "outputs")
    found = find_orphans(store)
    assert [(one.kind, one.path) for one in found.orphans] == [
        (OrphanKind.UNCLAIMED, input_name(unused))
    ]
    repair_orphans(store, found)
    assert store.exists(f"lost-and-found/{input_name(unused)}")
    assert store.exists(input_name(used))
    assert store.exists(input_name(young))
    assert theirs.exists()
    with pytest.raises(UnknownInputError):
        service.submit(request_for(melody=unused))
