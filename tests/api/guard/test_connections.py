"""The guard behind a real server, and clients that do not behave."""

import json
import socket
import threading
import time
from contextlib import contextmanager, suppress

import httpx2 as httpx
import pytest
import uvicorn

from services.api.guard import BoundedConnection, assemble
from services.api.guard.bodies import Bodies
from services.api.route_names import RouteNames
from services.config import Settings

PATIENCE = 20.0
HEAD = b"POST /api/v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


class Hasty(BoundedConnection):
    head_seconds = 0.3
    read_seconds = 0.3


@contextmanager
def listening(app, protocol=BoundedConnection):
    """Serve on a free port; give the port."""
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
        deadline = time.monotonic() + PATIENCE
        while not server.started:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(PATIENCE)


def connected(port):
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)


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
def test_half_a_header_is_given_up(serve, sqlite_database, sent):
    with listening(serve().guarded, Hasty) as port, connected(port) as connection:
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
def test_a_header_without_an_end_is_not_kept(serve, sqlite_database, begun):
    served = serve()
    sent = 0
    with listening(served.guarded) as port, connected(port) as connection:
        connection.sendall(begun)
        with suppress(ConnectionError):
            while sent < 64_000_000:
                sent += connection.send(b"x" * 65536)
    assert sent < 64_000_000
    assert served.made == []


@pytest.mark.parametrize("sent", [b"no request\r\n\r\n", b"GET / HTTP/1.1\r\nA: \0\r\n\r\n"])
def test_what_is_no_request_is_answered_with_a_problem(serve, sqlite_database, sent):
    with listening(serve().guarded) as port, connected(port) as connection:
        connection.sendall(sent)
        head, _, body = read_to_the_end(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"content-type: application/problem+json\r\n" in head
    assert b"x-content-type-options: nosniff" in head
    assert json.loads(body)["type"] == "/api/v1/problems/bad-request"


def test_half_a_header_after_a_request_is_given_up(serve, sqlite_database):
    whole = b"GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with listening(serve().guarded, Hasty) as port, connected(port) as connection:
        connection.sendall(whole)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        connection.sendall(whole[:20])
        assert read_to_the_end(connection) == b""


def test_who_does_not_read_is_let_go():
    ended = threading.Event()

    async def endless(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(2000):
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        ended.set()

    with listening(endless, Hasty) as port, connected(port) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        # What nobody reads waits for room; it ends when the connection does.
        assert ended.wait(PATIENCE)


def test_a_slow_body_is_answered_and_given_up(serve, sqlite_database):
    served = serve()
    with (
        listening(Bodies(served.app, 65536, seconds=0.3)) as port,
        connected(port) as connection,
    ):
        connection.sendall(HEAD + b"Content-Length: 10\r\n\r\n{")
        answer = read_to_the_end(connection)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"did not come within 0.3 s" in answer
    assert served.made == []


def test_a_body_past_the_limit_is_answered_though_the_client_sends_on(serve, sqlite_database):
    served = serve()
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    bodies = (
        b"Content-Length: 3000000\r\n\r\n" + b"x" * 3_000_000,
        b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 45 + b"0\r\n\r\n",
    )
    with listening(served.guarded) as port:
        for body in bodies:
            with connected(port) as connection:
                connection.sendall(HEAD + body)
                answer = read_to_the_end(connection)
            assert answer.startswith(b"HTTP/1.1 413")
            assert b"at most 65536 bytes" in answer
    assert served.made == []


def test_a_refused_body_ends_the_connection(serve, sqlite_database):
    served = serve(api_key="k")
    with listening(served.guarded) as port, connected(port) as connection:
        connection.sendall(HEAD + b"Content-Length: 10\r\n\r\n{")
        answer = read_to_the_end(connection)
    assert answer.startswith(b"HTTP/1.1 401")
    assert served.made == []


def test_many_that_stall_do_not_keep_others_waiting(serve, sqlite_database):
    served = serve()
    with listening(served.guarded) as port:
        stalled = [connected(port) for _ in range(100)]
        try:
            for number, connection in enumerate(stalled):
                connection.sendall((HEAD + b"Content-Length: 9\r\n\r\n")[: 30 + number])
            with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1") as client:
                answers = [client.get("/jobs/1").status_code for _ in range(20)]
        finally:
            for connection in stalled:
                connection.close()
    assert answers == [200] * 20


def test_the_server_takes_the_address_from_the_socket(serve, sqlite_database):
    app = serve().app
    guarded = assemble(app, Settings(_env_file=None), RouteNames(app))
    forged = {"X-Forwarded-For": "198.51.100.9", "X-Forwarded-Host": "evil.example"}
    with listening(guarded) as port:
        url = f"http://127.0.0.1:{port}/api/v1/jobs/1"
        assert httpx.get(url, headers=forged).json()["name"] == "127.0.0.1"
