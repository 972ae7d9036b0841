"""Audio over HTTP: formats, ranges and conditional requests."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from services import storage
from services.api.caller import Caller
from services.audio import write_wav
from services.errors import StoreAwayError
from services.jobs import renditions
from services.jobs.outfile import SUFFIXES, encode_take
from services.library.reconcile import FILE_MISSING
from tests.api.test_requests import assert_problem
from tests.conftest import LIMIT_SECONDS

if TYPE_CHECKING:
    from tests.api.conftest import Api

MEDIA_TYPES = {
    ".wav": "audio/wav",
    ".flac": "audio/flac",
    ".mp3": "audio/mpeg",
    ".ogg": "audio/ogg; codecs=vorbis",
    ".opus": "audio/ogg; codecs=opus",
}


def finish(api: Api, job_id: str) -> bytes:
    """Complete a job as a worker does, with a file and a row; return the bytes of the file."""
    rng = np.random.default_rng(7)
    path = api.state.settings.output_dir / "take.wav"
    write_wav(path, 0.1 * rng.standard_normal((2, 44_100)).astype(np.float32), 44_100)
    with storage.get_session() as session:
        row = storage.get_generation(session, job_id)
        assert row is not None
        final = api.state.settings.output_dir / row.file_path
        final.parent.mkdir(parents=True, exist_ok=True)
        data = path.rename(final).read_bytes()
        row.file_sha256 = hashlib.sha256(data).hexdigest()
        storage.complete_generation(session, job_id, 0.5, len(data), {"bpm": 140.0})
        storage.remove_queue_entry(session, job_id)
    return data


@pytest.fixture
def take(sqlite_api: Api) -> tuple[Api, str, bytes]:
    job_id = sqlite_api.ask("trap beat, 808 “bass”")
    return sqlite_api, f"/api/v1/files/{job_id}", finish(sqlite_api, job_id)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_file_is_available_in_every_format(take: tuple[Api, str, bytes], suffix: str) -> None:
    api, base, data = take
    answer = api.client.get(base + suffix)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == MEDIA_TYPES[suffix]
    assert answer.headers["cache-control"] == "private, max-age=31536000, immutable"
    assert answer.headers["accept-ranges"] == "bytes"
    samples, rate = soundfile.read(io.BytesIO(answer.content))
    assert len(samples) / rate == pytest.approx(1.0, abs=0.01)
    if suffix == ".wav":
        assert answer.content == data
        digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
        assert answer.headers["repr-digest"] == f"sha-256=:{digest}:"
    again = api.client.get(base + suffix, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == answer.headers["etag"]
    head = api.client.head(base + suffix)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(answer.content))
    assert head.headers["etag"] == answer.headers["etag"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(start=st.integers(0, 200_000), length=st.integers(1, 200_000))
def test_range_is_a_slice_of_the_file(
    take: tuple[Api, str, bytes], start: int, length: int
) -> None:
    api, base, data = take
    header = {"Range": f"bytes={start}-{start + length - 1}"}
    answer = api.client.get(f"{base}.wav", headers=header)
    if start >= len(data):
        assert_problem(answer, "range-not-satisfiable")
        assert answer.headers["content-range"] == f"bytes */{len(data)}"
    else:
        assert answer.status_code == 206
        assert answer.content == data[start : start + length]


def test_suffix_open_multiple_and_invalid_ranges(take: tuple[Api, str, bytes]) -> None:
    api, base, data = take

    def get(value: str, **more: str) -> Any:
        return api.client.get(f"{base}.wav", headers={"Range": value, **more})

    assert get("bytes=-100").content == data[-100:]
    assert get("bytes=100-").content == data[100:]
    parts = get("bytes=0-9,20-29")
    assert parts.status_code == 206
    assert data[20:30] in parts.content
    assert get("bytes=0-9", **{"If-Range": '"another"'}).status_code == 200
    etag = get("bytes=0-9").headers["etag"]
    assert get("bytes=0-9", **{"If-Range": etag}).status_code == 206
    # Anything but a valid range of bytes is ignored (RFC 9110, 14.2).
    for other in ("seconds=0-1", "bytes=9-5", "bytes=abc", "bytes", "bytes=" + "0-," * 1000):
        assert (get(other).status_code, get(other).content) == (200, data)


def test_download_name_has_prompt_and_tempo(take: tuple[Api, str, bytes]) -> None:
    api, base, _ = take
    shown = api.client.get(f"{base}.mp3").headers["content-disposition"]
    assert shown.startswith('inline; filename="trap-beat-808-bass_140bpm_')
    saved = api.client.get(f"{base}.mp3?download=true").headers["content-disposition"]
    assert saved.startswith('attachment; filename="trap-beat-808-bass_140bpm_')
    assert saved.endswith('.mp3"')


def test_concurrent_requests_convert_a_format_once(take: tuple[Api, str, bytes]) -> None:
    api, base, _ = take
    got: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: got.append(api.client.get(f"{base}.flac").content))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 6
    assert len(set(got)) == 1
    kept = list((api.state.settings.output_dir / ".dgx-cache").iterdir())
    assert [path.suffix for path in kept] == [".flac"]


def test_existing_files_do_not_wait_for_conversions(
    take: tuple[Api, str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    api, base, data = take
    begun = threading.Semaphore(0)
    may_end = threading.Event()

    def encode_slowly(*arguments: Any) -> None:
        begun.release()
        assert may_end.wait(LIMIT_SECONDS)
        encode_take(*arguments)

    monkeypatch.setattr(renditions, "encode_take", encode_slowly)
    answers: list[int] = []
    names = (".mp3", ".mp3", ".mp3", ".ogg", ".flac")
    threads = [
        threading.Thread(
            target=lambda name=name: answers.append(api.client.get(base + name).status_code)
        )
        for name in names
    ]
    for thread in threads:
        thread.start()
    try:
        # The three requests for MP3 hold one slot, so a second conversion can start.
        assert begun.acquire(timeout=LIMIT_SECONDS)
        assert begun.acquire(timeout=LIMIT_SECONDS)
        assert api.client.get(f"{base}.wav").content == data
        assert api.client.get(base.replace("/files/", "/jobs/") + "/peaks").status_code == 200
        assert answers == []
    finally:
        may_end.set()
        for thread in threads:
            thread.join()
    assert answers == [200] * len(names)


@pytest.mark.parametrize(
    "name",
    ["", "x", "{}", "{}.exe", "{}.WAV", "{}.wav.wav", "..%2F{}.wav", "%2e%2e/{}.wav", "{}%00.wav",
     "../../etc/passwd", "a" * 300 + ".wav"],
)  # fmt: skip
def test_invalid_file_name_is_refused(take: tuple[Api, str, bytes], name: str) -> None:
    api, base, _ = take
    job_id = base.rpartition("/")[2]
    answer = api.client.get("/api/v1/files/" + name.format(job_id))
    assert answer.status_code in {404, 422}
    assert answer.headers["content-type"] == "application/problem+json"


def test_file_of_unfinished_cancelled_foreign_or_lost_job_is_a_problem(
    take: tuple[Api, str, bytes],
) -> None:
    api, base, _ = take
    waiting = api.ask("beat")
    assert_problem(api.client.get(f"/api/v1/files/{waiting}.wav"), "not-ready")
    api.client.delete(f"/api/v1/jobs/{waiting}")
    assert_problem(api.client.get(f"/api/v1/files/{waiting}.wav"), "not-found")
    api.callers.caller = Caller("alice", sees_all=False, name="alice")
    assert_problem(api.client.get(f"{base}.wav"), "not-found")
    api.callers.caller = Caller(None, sees_all=True, name="local")
    job_id = base.rpartition("/")[2]
    with storage.get_session() as session:
        row = storage.get_generation(session, job_id)
        assert row is not None
        row.merge_metadata({FILE_MISSING: {"since": "now", "bytes": 5}})
    assert_problem(api.client.get(f"{base}.wav"), "gone")
    assert api.client.get(f"/api/v1/jobs/{job_id}").json()["file_url"] is None


def test_deleted_file_is_gone(take: tuple[Api, str, bytes]) -> None:
    api, base, _ = take
    (path,) = api.state.settings.output_dir.rglob("*-*.wav")
    path.unlink()
    for url in (f"{base}.wav", f"{base}.mp3", base.replace("/files/", "/jobs/") + "/peaks"):
        problem = assert_problem(api.client.get(url), "gone")
        assert str(api.state.settings.output_dir) not in problem["detail"]


@pytest.mark.parametrize("harm", ["cut", "altered"])
def test_a_damaged_file_is_gone_and_says_so(take: tuple[Api, str, bytes], harm: str) -> None:
    api, base, data = take
    assert api.client.get(f"{base}.wav").content == data
    (path,) = api.state.settings.output_dir.rglob("*-*.wav")
    path.write_bytes(data[:-1000] if harm == "cut" else data[:-1] + bytes([data[-1] ^ 1]))
    for url in (f"{base}.wav", f"{base}.mp3", base.replace("/files/", "/jobs/") + "/peaks"):
        for _ in range(2):
            problem = assert_problem(api.client.get(url), "gone")
            assert "is damaged" in problem["detail"]
            assert str(api.state.settings.output_dir) not in problem["detail"]
    path.write_bytes(data)
    assert api.client.get(f"{base}.wav").content == data


def test_a_link_that_leads_out_of_the_library_is_not_found(take: tuple[Api, str, bytes]) -> None:
    api, base, data = take
    (path,) = api.state.settings.output_dir.rglob("*-*.wav")
    outside = path.rename(api.state.settings.output_dir.parent / "outside.wav")
    path.symlink_to(outside)
    answer = api.client.get(f"{base}.wav")
    assert_problem(answer, "not-found")
    assert data not in answer.content


def test_unreachable_bucket_is_unavailable(
    take: tuple[Api, str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    api, base, _ = take

    def cannot_be_read(job_id: str) -> None:
        raise StoreAwayError(f"The file of {job_id} cannot be read now.")

    monkeypatch.setattr(api.state.service, "local_copy", cannot_be_read)
    answer = api.client.get(f"{base}.wav")
    assert_problem(answer, "unavailable")
    assert int(answer.headers["retry-after"]) > 0


def test_peaks_are_equal_in_json_and_binary(take: tuple[Api, str, bytes]) -> None:
    api, base, _ = take
    url = base.replace("/files/", "/jobs/") + "/peaks"
    shown = api.client.get(url, params={"pairs": 100}).json()
    assert (shown["version"], shown["channels"], shown["sample_rate"]) == (2, 2, 44_100)
    assert len(shown["data"]) == shown["length"] * 4
    assert shown["length"] >= 100
    raw = api.client.get(url, params={"pairs": 100, "format": "dat"})
    assert raw.headers["content-type"] == "application/octet-stream"
    assert np.frombuffer(raw.content[24:], np.int8).tolist() == shown["data"]
    assert_problem(api.client.get(url, params={"pairs": 0}), "invalid-request")
    assert api.client.head(url).status_code == 200


def test_spectrogram_is_a_png(take: tuple[Api, str, bytes]) -> None:
    api, base, _ = take
    answer = api.client.get(base.replace("/files/", "/jobs/") + "/spectrogram")
    assert answer.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(answer.content)).width > 100


def test_cache_stays_within_its_limit(sqlite_url: str, make_api: Callable[..., Api]) -> None:
    api = make_api(sqlite_url, file_cache_mib=0)
    job_id = api.ask("beat")
    finish(api, job_id)
    cache = api.state.settings.output_dir / ".dgx-cache"
    for suffix in (".flac", ".ogg"):
        assert api.client.get(f"/api/v1/files/{job_id}{suffix}").status_code == 200
        (kept,) = cache.iterdir()
        assert kept.suffix == suffix
        # Make it the least recently used, so that the next rendition replaces it.
        os.utime(kept, (1, 1))
