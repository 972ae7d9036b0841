"""Bars and loops from the request to the row, the order, the file and the description."""

from __future__ import annotations

import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import soundfile as sf

from services import storage
from services.audio.riff import iter_chunk_heads
from services.audio.wav_facts import read_wav_facts
from services.cli.generate import describe_take
from services.config import Settings
from services.errors import InvalidRequestError
from services.generation.composer.engine import FACTS
from services.generation.registry import default_registry
from services.jobs.making import JobMaker
from services.jobs.models import parse_request
from services.jobs.resubmission import check_again
from services.jobs.service import MusicService
from services.library.orders import Order

pytestmark = pytest.mark.integration


@pytest.fixture
def service(sqlite_url_with_tables: str, tmp_path: Path) -> MusicService:
    settings = Settings(
        DATABASE_URL=sqlite_url_with_tables, output_dir=tmp_path / "outputs", model_name="composer"
    )
    return MusicService(settings, default_registry(settings))


def ask(service: MusicService, **fields: Any) -> Order:
    job = service.submit(parse_request(**{"prompt": "house 120 bpm"} | fields))
    with storage.get_session(read_only=True) as session:
        row = storage.get_generation(session, job.job_id)
    assert row is not None
    return Order.of(row)


def read_chunks(path: str) -> dict[bytes, bytes]:
    with Path(path).open("rb") as file:
        file.seek(12)
        return {name: file.read(size) for name, size in iter_chunk_heads(file) if size < 1 << 16}


def test_a_queued_job_says_how_long_it_will_be(service: MusicService) -> None:
    for fields, seconds, bars, loop in (
        ({}, 16.0, 8, True),
        ({"bars": 3}, 6.0, 3, True),
        ({"duration": 9.0, "loop": False}, 9.0, None, False),
        ({"prompt": "ambient 60 bpm", "duration": 9.0}, 9.0, None, False),
    ):
        params = ask(service, **fields).params
        assert (params.duration_seconds, params.bars, params.loop) == (seconds, bars, loop)


def test_a_job_sent_again_keeps_its_length(service: MusicService) -> None:
    first = ask(service, bars=3)
    service.cancel(first.generation_id)
    again = check_again(service, first.generation_id).request
    assert (again.duration, again.bars, again.loop) == (6.0, 3, True)


def test_a_model_without_bars_refuses_them_and_names_one_that_has_them(
    service: MusicService, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = service.registry.resolve("composer")
    other = next(each for each in service.registry if each.facts.name == "musicgen-small")
    choice = SimpleNamespace(entry=other)
    monkeypatch.setattr(service.registry, "choose", lambda _name: choice)
    for fields, ability in (({"bars": 4}, "an exact number of bars"), ({"loop": True}, "loops")):
        with pytest.raises(InvalidRequestError, match=f"cannot make {ability}. The model") as error:
            service.check(parse_request(prompt="a beat", **fields))
        assert entry.facts.name in str(error.value)


def test_contradictions_are_refused_before_anything_is_queued(service: MusicService) -> None:
    with pytest.raises(InvalidRequestError, match="Give either the bars or the duration"):
        ask(service, bars=4, duration=16.0)
    with pytest.raises(InvalidRequestError, match="at most 300 bars"):
        ask(service, bars=512)
    with pytest.raises(InvalidRequestError, match="bars"):
        ask(service, bars=0)
    assert service.history().jobs == []


def test_a_finished_loop_says_so_wherever_it_is_looked_at(service: MusicService) -> None:
    checked = service.check(parse_request(prompt="house 231.7 bpm in A minor", bars=2, seed=4))
    job = JobMaker(service).make(checked, lambda *_: None, lambda: False)
    assert job.file is not None
    frames = round(2 * 240 / 231.7 * FACTS.sample_rate)
    assert sf.info(job.file).frames == frames
    assert job.duration_seconds == frames / FACTS.sample_rate
    assert (job.metadata["bars"], job.metadata["loop"]) == (2, True)
    assert "2-bar loop" in describe_take(job)[0]
    facts = read_wav_facts(job.file)
    assert (facts.is_loop, facts.bars, facts.beats, facts.bpm) == (True, 2, 8, 231.7)
    chunks = read_chunks(job.file)
    flags, root, _, _, beats = struct.unpack_from("<IHHfI", chunks[b"acid"])
    assert (flags, root % 12, beats) == (2 | 4, 9, 8)
    assert struct.unpack_from("<I", chunks[b"smpl"], 28) == (1,)
    assert struct.unpack_from("<2I", chunks[b"smpl"], 36 + 8) == (0, frames - 1)


def test_a_piece_that_is_no_loop_says_that_too(service: MusicService) -> None:
    # It ends with its last bar, but with an ending: repeated, it would stop and start.
    request = parse_request(prompt="house 240 bpm", duration=2.0, loop=False, seed=4)
    job = JobMaker(service).make(service.check(request), lambda *_: None, lambda: False)
    assert job.file is not None
    assert (job.metadata["bars"], job.metadata["loop"]) == (2, False)
    assert "2 bars" in describe_take(job)[0]
    assert read_wav_facts(job.file).is_loop is False
    chunks = read_chunks(job.file)
    assert struct.unpack_from("<I", chunks[b"acid"])[0] & 1
    assert b"smpl" not in chunks or struct.unpack_from("<I", chunks[b"smpl"], 28) == (0,)
