"""Limits on bodies, one message at a time: buffering, streaming, and draining."""

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api.guard import bodies
from services.api.guard.bodies import BodyLimits

JSON = [(b"content-type", b"application/json"), (b"transfer-encoding", b"chunked")]
AUDIO = [(b"content-type", b"audio/wav"), (b"transfer-encoding", b"chunked")]
END = {"type": "http.response.body", "body": b"", "more_body": False}
DISCONNECT = {"type": "http.disconnect"}


class Connection:
    """Messages that are received one by one, and those that are sent."""

    def __init__(self, *chunks, is_whole=True):
        last = len(chunks) - 1
        self.incoming = [
            {"type": "http.request", "body": chunk, "more_body": number < last or not is_whole}
            for number, chunk in enumerate(chunks)
        ]
        self.sent = []

    async def receive(self):
        return self.incoming.pop(0) if self.incoming else DISCONNECT

    async def send(self, message):
        self.sent.append(message)

    @property
    def status(self):
        return self.sent[0]["status"]


def call(connection, app, headers, path="/api/v1/generate", **limits):
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
    guarded = BodyLimits(app, **({"limit": 100, "upload_limit": 100} | limits))
    asyncio.run(guarded(scope, connection.receive, connection.send))


async def answer(send, *parts):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for number, part in enumerate(parts, 1):
        await send({"type": "http.response.body", "body": part, "more_body": number < len(parts)})


async def refuse_unread(_scope, _receive, send):
    await answer(send, b"no, ", b"thanks")


# Any number of these digits is JSON, and so is any part of it.
digits = st.text("123456789", max_size=9).map(str.encode)


@given(st.lists(digits, min_size=1, max_size=9), st.integers(0, 60))
def test_body_reaches_the_application_whole_or_not_at_all(chunks, limit):
    got = []

    async def app(_scope, receive, send):
        got.append(await receive())
        got.append(await receive())
        await answer(send, b"")

    connection = Connection(*chunks)
    call(connection, app, JSON, limit=limit)
    body = b"".join(chunks)
    if len(body) <= limit:
        assert got == [{"type": "http.request", "body": body, "more_body": False}, DISCONNECT]
    else:
        assert (connection.status, got) == (413, [])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "line 1, column 2"),
        (b'{"prompt": "beat",}', "line 1, column 19"),
        (b'{"prompt": "caf\xe9"}', "not UTF-8"),
        (b'{"duration": NaN}', "NaN is no number of JSON"),
        (b"[" * 50_000, "nested too deeply"),
        (b'{"prompt": "beat", "seed": ' + b"9" * 5000 + b"}", "too long"),
        (b'{"prompt": "calm", "prompt": "loud"}', "the name 'prompt' 2 times"),
        (b'{"requests": [{"seed": 1, "seed": 1}]}', "the name 'seed' 2 times"),
    ],
)
def test_invalid_json_is_refused_with_the_place_and_what_to_do(body, words):
    connection = Connection(body)
    call(connection, refuse_unread, JSON, limit=65_536)
    problem = json.loads(connection.sent[1]["body"])
    assert (connection.status, problem["type"]) == (422, "/api/v1/problems/invalid-request")
    assert words in problem["detail"]
    assert "Send " in problem["detail"]
    assert problem["errors"] == [{"detail": problem["detail"], "pointer": ""}]


@given(st.lists(st.binary(max_size=9), min_size=1, max_size=9), st.integers(0, 60))
def test_upload_is_streamed_up_to_the_limit(chunks, limit):
    got = []

    async def app(_scope, receive, send):
        is_more = True
        while is_more:
            message = await receive()
            got.append(message["body"])
            is_more = message["more_body"]
        await answer(send, b"")

    connection = Connection(*chunks)
    call(connection, app, AUDIO, "/api/v1/inputs", upload_limit=limit)
    if len(b"".join(chunks)) <= limit:
        assert (connection.status, got) == (200, chunks)
    else:
        assert connection.status == 413
        assert len(b"".join(got)) <= limit


def test_answer_to_an_upload_that_was_read_is_not_changed():
    async def app(_scope, receive, send):
        await receive()
        await answer(send, b"yes")

    connection = Connection(b"audio")
    call(connection, app, AUDIO, "/api/v1/inputs")
    assert connection.sent == [
        {"type": "http.response.start", "status": 200, "headers": []},
        {"type": "http.response.body", "body": b"yes", "more_body": False},
    ]


def test_answer_to_an_unread_upload_drains_it_and_closes_the_connection():
    connection = Connection(b"a", b"b", b"c")
    call(connection, refuse_unread, AUDIO, "/api/v1/inputs")
    assert connection.sent == [
        {"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]},
        {"type": "http.response.body", "body": b"no, ", "more_body": True},
        {"type": "http.response.body", "body": b"thanks", "more_body": True},
        END,
    ]
    assert connection.incoming == []


def test_drain_stops_after_its_limit(monkeypatch):
    monkeypatch.setattr(bodies, "_DRAINED_BYTES", 2)
    connection = Connection(b"a", b"b", b"c", b"d")
    call(connection, refuse_unread, AUDIO, "/api/v1/inputs")
    assert [message["body"] for message in connection.incoming] == [b"c", b"d"]
    assert connection.sent[-1] == END


def test_drain_ends_when_the_client_disconnects():
    connection = Connection(b"a", is_whole=False)
    call(connection, refuse_unread, AUDIO, "/api/v1/inputs")
    assert connection.sent[-1] == END


def test_drain_ends_when_no_more_arrives(monkeypatch):
    monkeypatch.setattr(bodies, "_DRAIN_SECONDS", 0.01)
    connection = Connection()

    async def wait_for_ever():
        await asyncio.Event().wait()

    connection.receive = wait_for_ever
    call(connection, refuse_unread, AUDIO, "/api/v1/inputs")
    assert connection.sent[-1] == END


@pytest.mark.parametrize(("expect", "left"), [([], 0), ([(b"expect", b"100-continue")], 2)])
def test_too_large_body_is_drained_unless_the_client_waits_for_permission(expect, left):
    connection = Connection(b"x" * 60, b"x" * 60)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"120"), *expect]
    call(connection, refuse_unread, headers)
    assert connection.status == 413
    assert len(connection.incoming) == left
    assert connection.sent[-1] == END


def test_request_without_a_body_is_not_checked():
    connection = Connection()
    call(connection, refuse_unread, [(b"content-length", b"0")])
    assert connection.status == 200
