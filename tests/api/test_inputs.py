"""Uploads of audio files, and requests that refer to them."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest
import soundfile as sf
from starlette.testclient import TestClient

from services.api.application import create_app
from services.api.caller import Caller
from services.api.guard.bodies import BodyLimits
from services.api.server import wrap_app
from services.audio import decoding
from tests.api.conftest import Api, Served
from tests.api.test_files import finish
from tests.api.test_requests import GENERATE, assert_problem
from tests.audio.test_decoding import SPINNING

INPUTS = "/api/v1/inputs"
LIMIT = 100_000
WAV = {"Content-Type": "audio/wav"}


def song(seconds: float = 1.0) -> bytes:
    file = io.BytesIO()
    sf.write(file, 0.3 * np.sin(np.arange(round(seconds * 16_000)) * 0.1), 16_000, format="WAV")
    return file.getvalue()


def pieces(data: bytes, size: int = 10_000) -> Iterator[bytes]:
    """Yield chunks, which are sent without a Content-Length."""
    yield from (data[start : start + size] for start in range(0, len(data), size))


@pytest.fixture
def open_api(make_api: Callable[..., Api], sqlite_url: str) -> Api:
    """With the guard around it."""
    api = make_api(sqlite_url, model_name="choir", input_max_bytes=LIMIT, input_max_seconds=2)
    settings, registry = api.state.settings, api.state.service.registry
    app = wrap_app(create_app(api.state, registry), settings, "127.0.0.1")
    client = TestClient(app, base_url="http://localhost", client=("127.0.0.1", 1))
    return Api(api.state, api.callers, client)


def folder(api: Api) -> Path:
    return api.state.settings.output_dir


def send(api: Api, content: Any, headers: dict[str, str] | None = None) -> Any:
    return api.client.post(INPUTS, content=content, headers=WAV if headers is None else headers)


def test_upload_is_stored_once_and_used_by_requests(open_api: Api) -> None:
    data = song()
    digest = hashlib.sha256(data).hexdigest()
    created = send(open_api, data)
    assert created.status_code == 201
    assert created.json() == {
        "id": digest,
        "bytes": len(data),
        "seconds": 1.0,
        "sample_rate": 16_000,
        "channels": 1,
        "container": "WAV",
        "remarks": [],
    }
    again = send(open_api, pieces(data), {"Content-Type": "application/octet-stream"})
    assert (again.status_code, again.json()) == (200, created.json())
    answer = open_api.client.post(GENERATE, json={"prompt": "sleep 0", "melody": digest})
    assert answer.status_code == 202
    assert answer.json()["metadata"]["melody_sha256"] == digest


def test_invalid_or_too_large_upload_is_refused(open_api: Api) -> None:
    for content, kind, problem in (
        (b"la la la", "audio/wav", "invalid-request"),
        (b"", "audio/wav", "invalid-request"),
        (song(2.5), "audio/wav", "invalid-request"),
        (song(), "application/json", "unsupported-media-type"),
        (song(), "text/plain", "unsupported-media-type"),
        (song(4), "audio/wav", "too-large"),
        (pieces(song(4)), "audio/wav", "too-large"),
    ):
        answer = send(open_api, content, {"Content-Type": kind})
        assert ".dgx" not in assert_problem(answer, problem)["detail"]
        assert not [path for path in folder(open_api).rglob("*") if path.is_file()]


async def flood(app: Any, content: bytes, uploads: int) -> tuple[list[Any], int]:
    """Upload a file many times at once; return the answers, and the lists of jobs got meanwhile."""
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        sent = [
            asyncio.ensure_future(client.post(INPUTS, content=content, headers=WAV))
            for _ in range(uploads)
        ]
        lists = 0
        while not all(each.done() for each in sent):
            assert (await client.get("/api/v1/history")).status_code == 200
            lists += 1
        return [each.result() for each in sent], lists


def test_uploads_that_hang_their_decoder_keep_no_other_request_waiting(
    open_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "CPU_SECONDS", 0.05)
    # More than the threads of a server.
    answers, lists = asyncio.run(flood(open_api.client.app, SPINNING["info"], 50))
    for answer in answers:
        problem = assert_problem(answer, "invalid-request")
        assert problem["detail"].startswith("The body is damaged")
    assert lists > 10
    assert [path for path in folder(open_api).rglob("*") if path.is_file()] == []


def test_a_damaged_input_is_replaced_by_the_same_file_sent_again(open_api: Api) -> None:
    data = song()
    sent = send(open_api, data).json()["id"]
    (path,) = (path for path in folder(open_api).rglob(sent))
    path.write_bytes(data[:-1])
    answer = send(open_api, data)
    assert (answer.status_code, answer.json()["id"]) == (200, sent)
    assert path.read_bytes() == data


def test_slow_upload_is_refused() -> None:
    sent = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()

    async def never() -> Any:
        await asyncio.Event().wait()

    async def note(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"audio/wav"), (b"transfer-encoding", b"chunked")]
    scope = {"type": "http", "method": "POST", "path": INPUTS, "headers": headers}
    asyncio.run(BodyLimits(app, 100, 100, upload_seconds=0.01)(scope, never, note))
    assert sent[0]["status"] == 400
    assert (b"connection", b"close") in sent[0]["headers"]


def test_unknown_input_is_refused(open_api: Api) -> None:
    for field in ("melody", "continue_from"):
        for reference in ("0" * 64, "../secret", 7):
            answer = open_api.client.post(GENERATE, json={"prompt": "beat", field: reference})
            found = assert_problem(answer, "invalid-request")
            assert [one["pointer"] for one in found["errors"]] == [f"/{field}"]


def test_model_without_melody_support_names_one_that_has_it(open_api: Api) -> None:
    digest = send(open_api, song()).json()["id"]
    body = {"prompt": "beat", "model": "puppet", "melody": digest}
    problem = assert_problem(open_api.client.post(GENERATE, json=body), "invalid-request")
    assert "'choir' can" in problem["detail"]
    models = open_api.client.get("/api/v1/models").json()["models"]
    assert {one["name"]: one["takes_melody"] for one in models}["choir"]


def test_only_the_owner_can_continue_a_job(make_api: Callable[..., Api], sqlite_url: str):
    api = make_api(sqlite_url, model_name="choir")
    api.callers.caller = Caller(owner="mine", sees_all=False, name="mine")
    job_id = api.ask()
    waits = api.client.post(GENERATE, json={"prompt": "beat", "continue_from": job_id})
    assert "no audio to work from" in assert_problem(waits, "invalid-request")["detail"]
    finish(api, job_id)
    assert api.ask(continue_from=job_id)
    api.callers.caller = Caller(owner="theirs", sees_all=False, name="theirs")
    other = api.client.post(GENERATE, json={"prompt": "beat", "continue_from": job_id})
    none = api.client.post(GENERATE, json={"prompt": "beat", "continue_from": "0" * 64})
    details = [assert_problem(one, "invalid-request")["detail"] for one in (other, none)]
    assert details[0].replace(job_id, "") == details[1].replace("0" * 64, "")


def test_server_runs_a_job_with_an_input(sqlite_served: Served) -> None:
    data = song()
    sent = sqlite_served.client.post("/inputs", content=pieces(data), headers=WAV)
    assert sent.status_code == 201
    job = sqlite_served.ask("sleep 0", model="choir", continue_from=sent.json()["id"])
    done = sqlite_served.until_status(job["job_id"], "completed")
    assert done["metadata"]["continue_from_sha256"] == hashlib.sha256(data).hexdigest()
    ledger = [line[1] for line in sqlite_served.rig.ledger()]
    assert f"before-{hashlib.sha256(data).hexdigest()}" in ledger


def test_large_upload_is_written_in_several_parts(
    make_api: Callable[..., Api], sqlite_url: str
) -> None:
    api = make_api(sqlite_url, input_max_bytes=10_000_000)
    file = io.BytesIO()
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, (192_000, 2))
    sf.write(file, noise, 192_000, format="WAV", subtype="DOUBLE")
    data = file.getvalue()
    created = send(api, pieces(data, 700_000))
    assert created.status_code == 201
    assert created.json()["id"] == hashlib.sha256(data).hexdigest()


def test_upload_of_a_client_that_disconnects_is_removed(open_api: Api) -> None:
    messages = [
        {"type": "http.request", "body": song()[:1000], "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def note(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": INPUTS,
        "query_string": b"",
        "headers": [(b"content-type", b"audio/wav")],
        "state": {},
    }
    asyncio.run(open_api.callers(scope, receive, note))
    assert sent[0]["status"] == 400
    assert b"disconnected before the end" in sent[1]["body"]
    assert not [path for path in folder(open_api).rglob("*") if path.is_file()]
