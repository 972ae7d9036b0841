"""Renditions of a take: their formats, keys and cache."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from services.audio import TakeFacts, open_audio, write_wav
from services.config import Settings
from services.errors import OutputError
from services.jobs import renditions
from services.jobs.renditions import RenditionMissingError, Renditions
from tests.conftest import LIMIT_SECONDS
from tests.jobs.test_outfile import job


@pytest.fixture
def take(tmp_path):
    path = tmp_path / "take.wav"
    audio = np.random.default_rng(0).uniform(-0.3, 0.3, (1, 24_000)).astype(np.float32)
    write_wav(path, audio, 48_000, facts=TakeFacts(prompt="hiss"))
    return path


@pytest.fixture
def make_renditions(tmp_path, take):
    def make(**changed):
        settings = Settings(output_dir=tmp_path / "outputs", **changed)
        service = SimpleNamespace(settings=settings, local_copy=lambda _job_id: take)
        return Renditions(service)  # only these two are used

    return make


@pytest.fixture
def made(make_renditions):
    return make_renditions()


def with_digest(digest="ab"):
    return job().model_copy(update={"file_sha256": digest})


def test_a_wav_is_the_take_itself(made, take):
    found = made.audio(with_digest(), ".wav", may_make=False)
    assert (found.path, found.etag, found.sha256) == (take, "ab", "ab")
    assert found.media_type == "audio/wav"


def test_a_wav_without_a_recorded_digest_has_an_etag_of_size_and_time(made, take):
    before = made.audio(job(), ".wav").etag
    take.write_bytes(take.read_bytes() + b"x")
    assert made.audio(job(), ".wav").etag != before


def test_another_format_is_made_once_and_then_cached(made, monkeypatch):
    with pytest.raises(RenditionMissingError):
        made.audio(with_digest(), ".flac", may_make=False)
    first = made.audio(with_digest(), ".flac")
    assert open_audio(first.path).read().shape == (1, 24_000)
    monkeypatch.setattr(renditions, "encode_take", None)
    assert made.audio(with_digest(), ".flac", may_make=False) == first


def test_the_key_depends_on_all_that_decides_the_bytes(make_renditions):
    def etag(digest="ab", suffix=".flac", **changed):
        return make_renditions(**changed).audio(with_digest(digest), suffix).etag

    etags = [etag(), etag("cd"), etag(suffix=".ogg"), etag(target_lufs=-20.0)]
    assert len(set(etags)) == 4
    assert etag() == etags[0]


@pytest.mark.parametrize("form", ["json", "dat"])
def test_a_waveform_has_at_least_the_wanted_points(made, form):
    found = made.peaks(with_digest(), form, 50)
    data = found.path.read_bytes()
    if form == "json":
        peaks = json.loads(data)
        assert peaks["length"] >= 50
        assert len(peaks["data"]) == 2 * peaks["length"] * peaks["channels"]
        assert found.media_type == "application/json"
    else:
        assert found.media_type == "application/octet-stream"
        assert int.from_bytes(data[:4], "little") in {1, 2}
    assert made.peaks(with_digest(), form, 5).etag != found.etag


def test_a_spectrogram_is_a_png(made):
    found = made.spectrogram(with_digest())
    assert found.path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert found.media_type == "image/png"


def test_simultaneous_requests_make_a_rendition_once(made, monkeypatch):
    started, release, calls = threading.Event(), threading.Event(), []
    real = renditions.encode_take

    def encode(*arguments):
        calls.append(arguments)
        started.set()
        release.wait(LIMIT_SECONDS)
        real(*arguments)

    monkeypatch.setattr(renditions, "encode_take", encode)
    with ThreadPoolExecutor(3) as threads:
        asked = [threads.submit(made.audio, with_digest(), ".flac") for _ in range(3)]
        assert started.wait(LIMIT_SECONDS)
        release.set()
        assert len({one.result() for one in asked}) == 1
    assert len(calls) == 1


def test_a_failed_conversion_is_an_output_error_and_can_be_repeated(made, monkeypatch):
    def fail(*_arguments):
        raise RuntimeError("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(renditions, "encode_take", fail)
        with pytest.raises(OutputError, match=r"could not be converted: The disk is full\."):
            made.audio(with_digest(), ".flac")
    assert made.audio(with_digest(), ".flac").path.exists()
