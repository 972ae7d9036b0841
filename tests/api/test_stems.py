"""Stems and MIDI over HTTP."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest

from services import storage
from services.api.caller import Caller
from services.jobs.attachments import list_attached
from services.jobs.making import JobMaker
from services.jobs.models import parse_request
from services.library.cleanup import clean_up_files
from tests.api.test_requests import assert_problem

if TYPE_CHECKING:
    from tests.api.conftest import Api

PREFIX = "/api/v1"


def make(api: Api, **fields: Any) -> str:
    service = api.state.service
    checked = service.check(parse_request(prompt="sleep 0", duration=1, model="choir", **fields))
    return JobMaker(service).make(checked, lambda *_: None, lambda: False).job_id


@pytest.fixture
def made(sqlite_api: Api) -> tuple[Api, str]:
    return sqlite_api, make(sqlite_api, stems=True, midi=True)


def test_stems_are_listed_with_links_that_work(made: tuple[Api, str]) -> None:
    api, job_id = made
    listed = api.client.get(f"{PREFIX}/jobs/{job_id}/stems").json()
    stored = list_attached(api.state.service, job_id)
    assert listed["midi_url"] == f"{PREFIX}/files/{job_id}.mid"
    assert [one["name"] for one in listed["stems"]] == ["high", "low"]
    for one, attached in zip(listed["stems"], stored, strict=False):
        answer = api.client.get(one["file_url"])
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "audio/wav"
        assert len(answer.content) == one["bytes"] == attached.bytes
        assert answer.headers["etag"] == f'"{one["sha256"]}"'
        assert one["sha256"] == attached.sha256
    midi = api.client.get(listed["midi_url"])
    assert midi.headers["content-type"] == "audio/midi"
    assert midi.content.startswith(b"MThd")
    assert midi.headers["etag"] == f'"{stored[-1].sha256}"'


@pytest.mark.parametrize("path", ["/files/{}/stems/low.wav", "/files/{}.mid"])
def test_stems_and_midi_have_ranges_head_and_conditions(made: tuple[Api, str], path: str) -> None:
    api, job_id = made
    url = PREFIX + path.format(job_id)
    whole = api.client.get(url)
    part = api.client.get(url, headers={"Range": "bytes=2-9"})
    assert (part.status_code, part.content) == (206, whole.content[2:10])
    digest = base64.b64encode(bytes.fromhex(whole.headers["etag"].strip('"'))).decode()
    assert whole.headers["repr-digest"] == f"sha-256=:{digest}:"
    same = api.client.get(url, headers={"If-None-Match": whole.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")
    head = api.client.head(url)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(whole.content))
    saved = api.client.get(url, params={"download": "true"}).headers["content-disposition"]
    assert saved.startswith('attachment; filename="sleep-0')
    assert saved.endswith('_low.wav"' if "stems" in path else '.mid"')


@pytest.mark.parametrize("path", ["/jobs/{}/stems", "/files/{}/stems/low.wav", "/files/{}.mid"])
def test_another_owner_gets_the_answer_for_an_unknown_job(made: tuple[Api, str], path: str) -> None:
    api, job_id = made
    with storage.get_session() as session:
        row = storage.get_generation(session, job_id)
        assert row is not None
        row.owner = "anna"
    assert api.client.get(PREFIX + path.format(job_id)).status_code == 200
    api.callers.caller = Caller(owner="ben", sees_all=False, name="ben", is_exempt=True)
    problem = assert_problem(api.client.get(PREFIX + path.format(job_id)), "not-found")
    assert problem["detail"] == f"There is no job '{job_id}'."


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/jobs/{}/stems", '"stems": true'),
        ("/files/{}/stems/low.wav", '"stems": true'),
        ("/files/{}.mid", '"midi": true'),
        ("/files/{}/stems/low.flac", "names end in .wav"),
    ],
)
def test_a_job_without_them_says_how_to_get_them(sqlite_api: Api, path: str, words: str) -> None:
    answer = sqlite_api.client.get(PREFIX + path.format(make(sqlite_api)))
    assert words in assert_problem(answer, "not-found")["detail"]


@pytest.mark.parametrize("name", ["nobody", "a%22b", "..%2F..%2Fsecret", "%C3%A4"])
def test_a_name_that_no_stem_has_is_not_found(made: tuple[Api, str], name: str) -> None:
    api, job_id = made
    assert_problem(api.client.get(f"{PREFIX}/files/{job_id}/stems/{name}.wav"), "not-found")


def test_stems_of_a_removed_take_are_gone(made: tuple[Api, str]) -> None:
    api, job_id = made
    clean_up_files(api.state.service.store, max_bytes=0, dry_run=False)
    for path in (f"/jobs/{job_id}/stems", f"/files/{job_id}/stems/low.wav", f"/files/{job_id}.mid"):
        assert_problem(api.client.get(PREFIX + path), "gone")


def test_stems_of_an_unfinished_job_are_not_ready(sqlite_api: Api) -> None:
    job_id = sqlite_api.ask(model="choir", stems=True)
    assert sqlite_api.client.get(f"{PREFIX}/jobs/{job_id}").json()["metadata"]["stems"] is True
    assert_problem(sqlite_api.client.get(f"{PREFIX}/jobs/{job_id}/stems"), "not-ready")


def test_requests_and_batches_for_stems_without_parts_are_refused(sqlite_api: Api) -> None:
    wish = {"prompt": "sleep 0", "stems": True}
    answer = sqlite_api.client.post(f"{PREFIX}/generate", json=wish)
    assert "'choir' can" in assert_problem(answer, "invalid-request")["detail"]
    good = wish | {"model": "choir", "midi": True}
    answer = sqlite_api.client.post(f"{PREFIX}/generate/batch", json={"requests": [good, wish]})
    assert_problem(answer, "invalid-request")
    accepted = sqlite_api.client.post(f"{PREFIX}/generate/batch", json={"requests": [good]})
    (job_id,) = accepted.json()["job_ids"]
    metadata = sqlite_api.client.get(f"{PREFIX}/jobs/{job_id}").json()["metadata"]
    assert (metadata["stems"], metadata["midi"]) == (True, True)
