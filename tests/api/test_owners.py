"""Access by owner: every route of the document, with every kind of caller."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from services import storage
from services.api import feed
from services.api.application import create_app
from services.api.routers import events
from services.api.server import make_state, wrap_app
from services.config import Settings
from tests.api.conftest import Api, Callers
from tests.api.test_document import OPERATIONS
from tests.api.test_files import finish
from tests.conftest import LIMIT_SECONDS, wait_until
from tests.worker.conftest import load_engines

OPERATOR = "an-operator-s-key"
CALLERS = ("owner", "other", "operator", "revoked", "nobody")
OPEN = (200, 200, 200, 200, 200)
KEYED = (200, 200, 200, 401, 401)
OWNED = (200, 404, 200, 401, 401)

# Route -> status for each of CALLERS, for a finished job of the owner.
EXPECTED = {
    ("POST", "/api/v1/generate"): (202, 202, 202, 401, 401),
    ("POST", "/api/v1/generate/batch"): (202, 202, 202, 401, 401),
    ("POST", "/api/v1/inputs"): (201, 200, 200, 401, 401),
    ("GET", "/api/v1/jobs/{job_id}"): OWNED,
    ("DELETE", "/api/v1/jobs/{job_id}"): (409, 404, 409, 401, 401),
    ("POST", "/api/v1/jobs/{job_id}/retry"): (409, 404, 409, 401, 401),
    ("GET", "/api/v1/jobs/{job_id}/events"): OWNED,
    ("GET", "/api/v1/events"): KEYED,
    ("GET", "/api/v1/files/{filename}"): OWNED,
    ("GET", "/api/v1/files/{job_id}/stems/{filename}"): OWNED,
    ("GET", "/api/v1/jobs/{job_id}/stems"): OWNED,
    ("GET", "/api/v1/jobs/{job_id}/peaks"): OWNED,
    ("GET", "/api/v1/jobs/{job_id}/spectrogram"): OWNED,
    ("GET", "/api/v1/history"): KEYED,
    ("GET", "/api/v1/prompts"): KEYED,
    ("GET", "/api/v1/models"): KEYED,
    ("GET", "/api/v1/queue/stats"): KEYED,
    ("GET", "/api/v1/health"): OPEN,
    ("GET", "/api/v1/health/ready"): OPEN,
    ("GET", "/api/v1/health/live"): OPEN,
    ("GET", "/api/v1/problems/{name}"): OPEN,
}
PROMPT = "a beat that nobody else knows of"


class Guarded:
    """The whole server in this process, and the keys of its callers."""

    def __init__(self, url: str, folder: Path) -> None:
        registry = load_engines().registry()
        settings = Settings(
            DATABASE_URL=url,
            output_dir=folder / "outputs",
            model_name="puppet",
            api_key=OPERATOR,
            rate_limit_enabled=False,
        )
        self.state = make_state(settings, registry)
        app = wrap_app(create_app(self.state, registry), settings, "127.0.0.1")
        self.client = TestClient(app, base_url="http://localhost")
        self.headers = {"nobody": {}, "operator": {"Authorization": f"Bearer {OPERATOR}"}}
        with storage.get_session() as session:
            for name in ("owner", "other", "revoked"):
                _, secret = storage.create_api_key(session, name)
                self.headers[name] = {"Authorization": f"Bearer {secret}"}
            storage.revoke_api_key(session, "revoked")
        body = {"prompt": PROMPT, "duration": 1}
        made = self.ask("owner", "POST", "/api/v1/generate", json=body)
        self.job_id = str(made.json()["job_id"])
        finish(Api(self.state, Callers(app), self.client), self.job_id)
        self.add_stem(self.job_id)

    def add_stem(self, name: str) -> None:
        file = self.state.settings.output_dir / "a.stems" / f"{name}.wav"
        file.parent.mkdir()
        file.write_bytes(b"music")
        stem = storage.NewAttachment(
            kind="stem", name=name, file_path=f"a.stems/{name}.wav", bytes=5,
            sha256=hashlib.sha256(b"music").hexdigest(),
        )  # fmt: skip
        with storage.get_session() as session:
            storage.replace_attachments(session, self.job_id, [stem])

    def end_streams(self) -> None:
        # As a signal does, in the thread of the event loop.
        assert self.client.portal is not None
        self.client.portal.call(self.state.feed.close)

    def ask(self, caller: str, method: str, path: str, **options: Any) -> Any:
        kind = {"Content-Type": "audio/wav"} if "content" in options else {}
        headers = self.headers[caller] | kind
        return self.client.request(method, path, headers=headers, **options)


@pytest.fixture
def server(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guarded]:
    monkeypatch.setenv("DGX_MUSIC_TEST_LEDGER", str(tmp_path / "ledger"))
    made = Guarded(sqlite_url, tmp_path)
    with made.client:
        yield made


def test_table_covers_every_route() -> None:
    assert set(EXPECTED) == {(method, path) for path, method, _ in OPERATIONS}


def test_each_route_answers_each_caller_as_expected(server: Guarded) -> None:
    for (method, template), statuses in EXPECTED.items():
        path = template.format(
            job_id=server.job_id, filename=f"{server.job_id}.wav", name="not-found"
        )
        options: dict[str, Any] = {}
        if template == "/api/v1/inputs":
            options["content"] = server.ask(
                "owner", "GET", f"/api/v1/files/{server.job_id}.wav"
            ).content
        elif method == "POST":
            body = {"prompt": "another beat", "duration": 1}
            options["json"] = {"requests": [body]} if "batch" in path else body
        if template == "/api/v1/events":
            # The stream would not end by itself.
            server.end_streams()
        got = tuple(server.ask(caller, method, path, **options).status_code for caller in CALLERS)
        assert got == statuses, (method, template)


def test_stream_ends_when_its_key_is_revoked(
    server: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "KEY_SECONDS", 0.0)
    monkeypatch.setattr(feed, "HEARTBEAT_SECONDS", 0.0)
    with ThreadPoolExecutor() as pool:
        other = pool.submit(server.ask, "other", "GET", "/api/v1/events")
        mine = pool.submit(server.ask, "owner", "GET", "/api/v1/events")
        wait_until(lambda: server.state.feed.subscriber_count == 2 or mine.done())
        with storage.get_session() as session:
            storage.revoke_api_key(session, "owner")
        assert mine.result(timeout=LIMIT_SECONDS).status_code == 200
        assert not other.done()
        server.end_streams()
        assert other.result(timeout=LIMIT_SECONDS).status_code == 200


def test_closed_feed_does_not_wait_for_a_change(server: Guarded) -> None:
    server.end_streams()

    async def wait_for_change() -> None:
        await asyncio.wait_for(server.state.feed.wait_for_change(), LIMIT_SECONDS)

    assert server.client.portal is not None
    server.client.portal.call(wait_for_change)


def test_lists_hide_the_jobs_of_other_owners(server: Guarded) -> None:
    for path in ("/history", "/history?search=nobody", "/prompts", "/prompts?search=nobody"):
        assert PROMPT in server.ask("owner", "GET", f"/api/v1{path}").text
        assert PROMPT in server.ask("operator", "GET", f"/api/v1{path}").text
        assert PROMPT not in server.ask("other", "GET", f"/api/v1{path}").text
    for path in ("/queue/stats", "/health", "/models", "/openapi.json"):
        assert PROMPT not in server.ask("other", "GET", f"/api/v1{path}").text
    assert PROMPT not in server.ask("operator", "GET", "/metrics").text
    assert server.ask("nobody", "GET", "/metrics").status_code == 401


def test_metrics_say_that_the_database_is_away_and_nothing_else(server, monkeypatch):
    def away(**_options):
        raise storage.DatabaseUnreachableError("The database does not answer.")

    monkeypatch.setattr(storage, "get_session", away)
    answer = server.ask("other", "GET", "/metrics")
    assert answer.status_code == 200
    lines = [line for line in answer.text.splitlines() if not line.startswith("#")]
    assert lines == ["dgx_music_database_up 0.0"]
    own = server.ask("operator", "GET", "/metrics").text
    assert "dgx_music_database_up 0.0" in own
    assert "dgx_music_http_requests_total" in own
    assert server.ask("nobody", "GET", "/metrics").status_code == 401
    assert server.ask("other", "GET", "/api/v1/history").status_code == 503


GETTABLE = sorted(path for method, path in EXPECTED if method == "GET")
VARYING = {"x-request-id", "date", "content-length"}


@pytest.mark.parametrize("caller", ["owner", "other", "nobody"])
def test_head_has_the_status_and_headers_of_get(server: Guarded, caller: str) -> None:
    for template in (*GETTABLE, "/metrics", "/api/v1/openapi.json", "/api/v1/docs", "/nowhere"):
        path = template.format(
            job_id=server.job_id, filename=f"{server.job_id}.wav", name="not-found"
        )
        head = server.ask(caller, "HEAD", path)
        assert head.content == b"", path
        if path.endswith("/events"):
            # A stream of GET would not end by itself.
            statuses = dict(zip(CALLERS, EXPECTED["GET", template], strict=True))
            assert head.status_code == statuses[caller]
            continue
        got = server.ask(caller, "GET", path)
        assert head.status_code == got.status_code, path
        assert {*head.headers} | VARYING == {*got.headers} | VARYING, path
        for name in ("content-type", "etag", "www-authenticate"):
            assert head.headers.get(name) == got.headers.get(name), path


def test_head_of_a_route_without_get_is_refused(server: Guarded) -> None:
    answer = server.ask("owner", "HEAD", "/api/v1/generate")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.content == b""


def test_every_answer_has_request_id_and_security_headers(server: Guarded) -> None:
    for caller, path in (("owner", "/history"), ("nobody", "/history"), ("owner", "/nothing")):
        answer = server.ask(caller, "GET", f"/api/v1{path}")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-request-id"]
        assert "access-control-allow-origin" not in answer.headers
        if answer.status_code != 200:
            assert answer.json()["request_id"] == answer.headers["x-request-id"]
