"""The guard in a real server, against clients that misbehave."""

import asyncio
import json
import logging
import socket
import threading
from contextlib import ExitStack, contextmanager, suppress

import httpx2 as httpx
import pytest
import uvicorn

from services.api.guard import BoundedConnection, assemble, connections
from services.api.guard.bodies import BodyLimits
from services.api.route_names import RouteNames
from services.config import Settings
from tests.conftest import LIMIT_SECONDS, wait_until

HEAD = b"POST /api/v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


class Hasty(BoundedConnection):
    head_seconds = 0.3
    read_seconds = 0.3


@contextmanager
def listening(app, protocol=BoundedConnection):
    """Serve on a free port; yield the port."""
    config = uvicorn.Config(
        app,
        http=protocol,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        lifespan="off",
        timeout_keep_alive=60,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        wait_until(lambda: server.started)
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(LIMIT_SECONDS)


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=LIMIT_SECONDS)


def read_to_the_end(connection):
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET / HTTP/1.1\r\nHost: a\r\n", b"\r\n\r\n", b"GE"],
    ids=["nothing", "half", "empty-lines", "two-bytes"],
)
def test_incomplete_header_times_out(serve, sqlite_database, sent):
    with listening(serve().guarded, Hasty) as port, connect(port) as connection:
        connection.sendall(sent)
        assert read_to_the_end(connection) == b""


@pytest.mark.parametrize(
    "begun",
    [
        b"GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\nX: ",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: ",
    ],
    ids=["header", "trailer"],
)
def test_endless_header_is_not_buffered(serve, sqlite_database, begun):
    served = serve()
    sent = 0
    with listening(served.guarded) as port, connect(port) as connection:
        connection.sendall(begun)
        with suppress(ConnectionError):
            while sent < 64_000_000:
                sent += connection.send(b"x" * 65536)
    assert sent < 64_000_000
    assert served.bodies == []


@pytest.mark.parametrize("sent", [b"no request\r\n\r\n", b"GET / HTTP/1.1\r\nA: \0\r\n\r\n"])
def test_invalid_http_is_answered_with_a_problem(serve, sqlite_database, sent):
    with listening(serve().guarded) as port, connect(port) as connection:
        connection.sendall(sent)
        head, _, body = read_to_the_end(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"content-type: application/problem+json\r\n" in head
    assert b"x-content-type-options: nosniff" in head
    assert json.loads(body)["type"] == "/api/v1/problems/bad-request"


def test_header_over_the_limit_is_refused_even_if_it_arrives_at_once(serve, sqlite_database):
    served = serve()
    with listening(served.guarded) as port:
        for size, status in ((60_000, b"200"), (70_000, b"400"), (130_000, b"400")):
            with connect(port) as connection:
                lines = b"A: %b\r\nB: %b\r\n" % (b"x" * (size // 2), b"x" * (size // 2))
                begin = b"GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                connection.sendall(begin + lines + b"\r\n")
                answer = read_to_the_end(connection)
            assert answer.startswith(b"HTTP/1.1 " + status), size
            assert (b"The header has more than 65536 bytes." in answer) == (status == b"400")


def test_refused_http_has_a_request_id_and_a_line_in_the_log(serve, sqlite_database, caplog):
    caplog.set_level(logging.INFO, "services.api.access")
    with listening(serve().guarded) as port, connect(port) as connection:
        connection.sendall(b"no request\r\n\r\n")
        head, _, body = read_to_the_end(connection).partition(b"\r\n\r\n")
    (line,) = (record for record in caplog.records if record.name == "services.api.access")
    assert "status=400" in line.getMessage()
    assert "client=127.0.0.1" in line.getMessage()
    request_id = json.loads(body)["request_id"]
    assert line.request_id == request_id
    assert f"x-request-id: {request_id}".encode() in head


def test_incomplete_header_after_a_request_times_out(serve, sqlite_database):
    whole = b"GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with listening(serve().guarded, Hasty) as port, connect(port) as connection:
        connection.sendall(whole)
        answer = b""
        while not answer.endswith(b"}"):
            answer += connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200")
        connection.sendall(whole[:20])
        assert read_to_the_end(connection) == b""


def test_client_that_does_not_read_is_disconnected():
    ended = threading.Event()

    async def endless(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(2000):
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        ended.set()

    with listening(endless, Hasty) as port, connect(port) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        # The writes block until the connection is closed, and then return.
        assert ended.wait(LIMIT_SECONDS)


def test_long_answer_reaches_a_client_that_reads_it():
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(100):
            message = {"type": "http.response.body", "body": b"x" * 65536}
            await send(message | {"more_body": number < 99})

    with listening(app) as port:
        answer = httpx.get(f"http://127.0.0.1:{port}/", timeout=LIMIT_SECONDS)
    assert len(answer.content) == 100 * 65536


def test_slow_body_is_answered_and_closed(serve, sqlite_database):
    served = serve()
    with (
        listening(BodyLimits(served.app, 65536, seconds=0.3)) as port,
        connect(port) as connection,
    ):
        connection.sendall(HEAD + b"Content-Length: 10\r\n\r\n{")
        answer = read_to_the_end(connection)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"did not arrive within 0.3 s" in answer
    assert served.bodies == []


def test_too_large_body_is_answered_while_the_client_still_sends(serve, sqlite_database):
    served = serve()
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    bodies = (
        b"Content-Length: 3000000\r\n\r\n" + b"x" * 3_000_000,
        b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 45 + b"0\r\n\r\n",
    )
    with listening(served.guarded) as port:
        for body in bodies:
            with connect(port) as connection:
                connection.sendall(HEAD + body)
                answer = read_to_the_end(connection)
            assert answer.startswith(b"HTTP/1.1 413")
            assert b"at most 65536 bytes" in answer
    assert served.bodies == []


def test_refused_body_closes_the_connection(serve, sqlite_database):
    served = serve(api_key="k")
    with listening(served.guarded) as port, connect(port) as connection:
        connection.sendall(HEAD + b"Content-Length: 10\r\n\r\n{")
        answer = read_to_the_end(connection)
    assert answer.startswith(b"HTTP/1.1 401")
    assert served.bodies == []


def test_stalled_connections_do_not_delay_others(serve, sqlite_database):
    served = serve()
    with listening(served.guarded) as port:
        stalled = [connect(port) for _ in range(100)]
        try:
            for number, connection in enumerate(stalled):
                connection.sendall((HEAD + b"Content-Length: 9\r\n\r\n")[: 30 + number])
            with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1") as client:
                answers = [client.get("/jobs/1").status_code for _ in range(20)]
        finally:
            for connection in stalled:
                connection.close()
    assert answers == [200] * 20


def test_server_takes_the_address_from_the_socket(serve, sqlite_database):
    app = serve().app
    guarded = assemble(app, Settings(_env_file=None), RouteNames(app))
    forged = {"X-Forwarded-For": "198.51.100.9", "X-Forwarded-Host": "evil.example"}
    with listening(guarded) as port:
        url = f"http://127.0.0.1:{port}/api/v1/jobs/1"
        assert httpx.get(url, headers=forged).json()["name"] == "127.0.0.1"


def hanging_app(release):
    """Answer `/hang` when the event is set, and all else at once."""

    async def app(scope, receive, send):
        if scope["path"] == "/hang":
            while not release.is_set():
                await asyncio.sleep(0.005)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"well"})

    return app


def read_answer(connection):
    answer = b""
    while not answer.endswith(b"well\r\n0\r\n\r\n"):
        answer += connection.recv(65536)
        assert answer
    return answer


def ask(connection, path):
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())


def test_silent_connections_make_room_for_requests(monkeypatch):
    monkeypatch.setattr(connections, "count_allowed_connections", lambda: 5)
    release = threading.Event()
    with listening(hanging_app(release)) as port, ExitStack() as opened:
        silent = [opened.enter_context(connect(port)) for _ in range(20)]
        client = opened.enter_context(connect(port))
        ask(client, "/health")
        assert read_answer(client).startswith(b"HTTP/1.1 200")
        # The oldest were closed to make room.
        assert [read_to_the_end(each) for each in silent[:15]] == [b""] * 15


def test_a_server_that_is_full_of_requests_says_so(monkeypatch):
    monkeypatch.setattr(connections, "count_allowed_connections", lambda: 3)
    release = threading.Event()
    arrived = []
    app = hanging_app(release)

    async def counting(scope, receive, send):
        arrived.append(scope["path"])
        await app(scope, receive, send)

    with listening(counting) as port, ExitStack() as opened:
        busy = [opened.enter_context(connect(port)) for _ in range(3)]
        for each in busy:
            ask(each, "/hang")
        wait_until(lambda: arrived == ["/hang"] * 3)
        refused = opened.enter_context(connect(port))
        head, _, body = read_to_the_end(refused).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"\r\nretry-after: 5\r\n" in head
        assert json.loads(body)["type"] == "/api/v1/problems/unavailable"
        release.set()
        for each in busy:
            assert read_answer(each).startswith(b"HTTP/1.1 200")


def test_a_connection_is_silent_again_after_its_answer(monkeypatch):
    monkeypatch.setattr(connections, "count_allowed_connections", lambda: 1)
    with listening(hanging_app(threading.Event())) as port, connect(port) as first:
        ask(first, "/health")
        read_answer(first)
        with connect(port) as second:
            ask(second, "/health")
            read_answer(second)
        assert read_to_the_end(first) == b""
