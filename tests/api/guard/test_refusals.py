"""Requests the guard refuses before the application sees them, and headers of every answer."""

import asyncio
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api.guard import assemble
from services.api.guard.addresses import ClientFinder
from services.api.guard.bodies import BodyLimits
from services.api.guard.hosts import HostCheck, split_host
from services.api.route_names import RouteNames
from services.config import Settings

HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
FOREIGN = [
    "evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "localhost.", "127.1",
    "2130706433", "0.0.0.0:8000", "[::]", "[::1", "[1:2:3]", "localhost:x", "localhost:8000:8000",
    "a@localhost", "localhost, evil.example", " localhost", "", "*", "[fe80::1]",
]  # fmt: skip


def scope_of(method="GET", path="/api/v1/jobs/1", headers=(), client=("127.0.0.1", 1), **more):
    return {
        "type": "http",
        "method": method,
        "path": path,
        "headers": list(headers),
        "client": client,
        "server": ("127.0.0.1", 8000),
        "query_string": b"",
        "scheme": "http",
        "http_version": "1.1",
        "root_path": "",
    } | more


@pytest.mark.parametrize("host", FOREIGN)
def test_foreign_host_name_is_refused(sqlite_database, serve, host):
    sent = serve().call(scope_of(headers=[(b"host", host.encode())]))
    assert sent[0]["status"] == 421


@pytest.mark.parametrize(
    "hosts", [[], [b"localhost", b"localhost"], [b"\xff\x00"]], ids=["none", "two", "bytes"]
)
def test_exactly_one_valid_host_is_required(sqlite_database, serve, hosts):
    sent = serve().call(scope_of(headers=[(b"host", host) for host in hosts]))
    assert sent[0]["status"] == 421


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000", "[0:0::1]", "music.lan"]
)
def test_own_host_names_are_accepted(sqlite_database, serve, host):
    served = serve(api_allowed_hosts="music.lan")
    assert served.call(scope_of(headers=[(b"host", host.encode())]))[0]["status"] == 200


def test_address_of_the_connection_is_accepted_as_host(sqlite_database, serve):
    served = serve(host="0.0.0.0", api_key="k")
    ours, other = (
        served.call(
            scope_of(headers=[(b"host", host), (b"x-api-key", b"k")], server=("192.168.1.5", 8000))
        )
        for host in (b"192.168.1.5:8000", b"192.168.1.6:8000")
    )
    assert (ours[0]["status"], other[0]["status"]) == (200, 421)


def test_wildcard_accepts_every_host(sqlite_database, serve):
    served = serve(api_allowed_hosts="*")
    assert served.call(scope_of(headers=[(b"host", b"evil.example")]))[0]["status"] == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 202),
        ({"Origin": "http://localhost:8000"}, 202),
        ({"Origin": "http://LOCALHOST:8000"}, 202),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://localhost:3000"}, 403),
        ({"Origin": "localhost:8000"}, 403),
        ({"Origin": "file://"}, 403),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://music.example"}, 202),
        ({"Sec-Fetch-Site": "none"}, 202),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost:8000"}, 403),
    ],
)
def test_other_sites_can_only_read(sqlite_database, serve, headers, status):
    served = serve()
    answer = served.request("POST", "/generate", json={}, headers=headers)
    assert answer.status_code == status
    assert len(served.bodies) == (status == 202)
    assert served.request("DELETE", "/jobs/1", headers=headers).status_code in {403, 405}
    read = served.request("GET", "/jobs/1", headers=headers)
    assert read.status_code == 200
    preflight = served.request(
        "OPTIONS", "/generate", headers=headers | {"Access-Control-Request-Method": "POST"}
    )
    for each in (answer, read, preflight):
        assert not [name for name in each.headers if name.startswith("access-control")]


def test_https_origin_behind_a_proxy_is_the_servers_own(sqlite_database, serve):
    served = serve(api_allowed_hosts="music.example")
    answer = served.request(
        "POST",
        "/generate",
        json={},
        base_url="http://music.example",
        headers={"Origin": "https://music.example"},
    )
    assert answer.status_code == 202


def test_every_answer_has_security_headers_and_request_id(sqlite_database, serve):
    served = serve(api_key="k")
    key = {"X-API-Key": "k"}
    answers = [
        served.request("GET", "/jobs/1", headers=key),
        served.request("GET", "/nothing", headers=key),
        served.request("GET", "/fault", headers=key),
        served.request("GET", "/jobs/1"),
        served.request("GET", "/jobs/1", headers=key, base_url="http://evil.example"),
        served.request("POST", "/generate", headers=key, content=b"x"),
    ]
    assert [answer.status_code for answer in answers] == [200, 404, 500, 401, 421, 415]
    for answer in answers:
        assert answer.headers.items() >= HEADERS.items()
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])
    for refusal in answers[3:]:
        assert refusal.headers["content-type"] == "application/problem+json"
        assert refusal.json()["request_id"] == refusal.headers["x-request-id"]


def test_headers_set_by_the_application_are_not_replaced(sqlite_database, serve):
    answer = serve().request("GET", "/docs")
    assert answer.headers["content-security-policy"] == "mine"
    assert answer.headers["cache-control"] == "public"


@pytest.mark.parametrize("sent", ["abc-1.2_X", "a" * 64])
def test_valid_request_id_is_adopted(sqlite_database, serve, sent):
    answer = serve().request("GET", "/health", headers={"X-Request-ID": sent})
    assert answer.headers["x-request-id"] == sent


@pytest.mark.parametrize("sent", [b"", b"a" * 65, b"a b", b"a\nb", b"\xff", b"<script>"])
def test_invalid_request_id_is_replaced(sqlite_database, serve, sent):
    headers = [(b"host", b"localhost"), (b"x-request-id", sent)]
    answered = dict(serve().call(scope_of(headers=headers))[0]["headers"])
    assert re.fullmatch(rb"[0-9a-f]{32}", answered[b"x-request-id"])


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 202),
        ("Application/JSON; charset=utf-8", 202),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("text/plain; application/json", 415),
        (None, 415),
    ],
)
def test_body_must_be_json(sqlite_database, serve, kind, status):
    served = serve()
    headers = {} if kind is None else {"Content-Type": kind}
    answer = served.request("POST", "/generate", content=b"{}", headers=headers)
    assert answer.status_code == status
    assert served.bodies == ([b"{}"] if status == 202 else [])


def test_request_without_body_needs_no_content_type(sqlite_database, serve):
    assert serve().request("POST", "/generate").status_code == 202


async def chunks(count, size):
    for _ in range(count):
        yield b"1" * size


@pytest.mark.parametrize("in_chunks", [False, True])
def test_body_size_is_limited(sqlite_database, serve, in_chunks):
    served = serve(api_max_body_bytes=2048)
    headers = {"Content-Type": "application/json"}
    for size, status in ((2048, 202), (2049, 413)):
        content = chunks(size, 1) if in_chunks else b"1" * size
        answer = served.request("POST", "/generate", content=content, headers=headers)
        assert answer.status_code == status
    assert [len(body) for body in served.bodies] == [2048]
    assert "2048 bytes" in answer.json()["detail"]
    assert answer.headers["connection"] == "close"


def test_invalid_content_length_is_refused_before_the_body_is_read(sqlite_database, serve):
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    for length, status in ((b"65537", 413), (b"9" * 5000, 400), (b"-1", 400), (b"\xb2", 400)):
        scope = scope_of("POST", "/api/v1/generate", [*headers, (b"content-length", length)])
        assert serve().call(scope)[0]["status"] == status


def test_slow_body_is_refused():
    sent, called = [], []

    async def app(scope, receive, send):
        called.append(scope)

    async def never():
        await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    headers = [(b"content-type", b"application/json"), (b"transfer-encoding", b"chunked")]
    asyncio.run(BodyLimits(app, 100, seconds=0.01)(scope_of("POST", headers=headers), never, send))
    assert sent[0]["status"] == 400
    assert (b"connection", b"close") in sent[0]["headers"]
    assert sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
    assert not called


def test_client_that_disconnects_within_the_body_is_not_answered(sqlite_database, serve):
    served = serve()
    headers = [
        (b"host", b"localhost"),
        (b"content-type", b"application/json"),
        (b"content-length", b"10"),
    ]
    part = {"type": "http.request", "body": b"{", "more_body": True}
    assert served.call(scope_of("POST", "/api/v1/generate", headers), part) == []
    assert served.bodies == []


@pytest.mark.parametrize(
    ("peer", "forwarded", "found", "is_loopback"),
    [
        ("203.0.113.7", "127.0.0.1", "203.0.113.7", False),
        ("127.0.0.1", None, "127.0.0.1", True),
        ("127.0.0.1", "198.51.100.1", "198.51.100.1", False),
        ("127.0.0.1", "127.0.0.1, 198.51.100.1", "198.51.100.1", False),
        ("127.0.0.1", "1.2.3.4, 198.51.100.1, 10.0.0.9", "198.51.100.1", False),
        ("127.0.0.1", "198.51.100.1:4711", "198.51.100.1", False),
        ("127.0.0.1", "[2001:db8::1]:4711", "2001:db8::1", False),
        ("127.0.0.1", "unknown", "127.0.0.1", True),
        ("10.0.0.9", "127.0.0.1", "127.0.0.1", False),
        ("10.0.0.9", "198.51.100.1, rubbish", "10.0.0.9", False),
        ("::ffff:10.0.0.9", "198.51.100.1", "198.51.100.1", False),
    ],
)
def test_only_trusted_proxies_can_forward_addresses(peer, forwarded, found, is_loopback):
    headers = [] if forwarded is None else [(b"x-forwarded-for", forwarded.encode())]
    find = ClientFinder(["127.0.0.1/32", "10.0.0.0/8"])
    client = find(scope_of(headers=headers, client=(peer, 1)))
    assert (client.address, client.is_loopback) == (found, is_loopback)
    if peer != "203.0.113.7":
        trusting_none = ClientFinder([])(scope_of(headers=headers, client=(peer, 1)))
        assert trusting_none.address == peer.removeprefix("::ffff:")


def test_other_protocols_pass_through_every_layer(sqlite_database, serve):
    served = serve()
    seen = []

    async def app(scope, receive, send):
        seen.append(scope)

    guarded = assemble(app, Settings(_env_file=None), RouteNames(served.app))
    scope = {"type": "lifespan"}
    asyncio.run(guarded(scope, None, None))
    assert seen == [{"type": "lifespan"}]


RAW = st.binary(max_size=80)
NAMES = st.sampled_from(
    [
        b"host", b"origin", b"sec-fetch-site", b"authorization", b"x-api-key", b"x-forwarded-for",
        b"x-request-id", b"content-length", b"content-type", b"transfer-encoding", b"expect",
    ]
)  # fmt: skip
DOCUMENTED = {200, 202, 400, 401, 403, 404, 405, 413, 415, 421, 429}


@pytest.fixture(scope="module")
def open_refusals():
    """The layers that need no database."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return HostCheck(BodyLimits(app, 1024, seconds=0.5), "localhost", [])


@given(
    st.lists(st.tuples(NAMES, RAW), max_size=8),
    st.sampled_from(["GET", "POST", "DELETE", "OPTIONS", "BREW"]),
    RAW,
)
def test_random_headers_are_answered_with_a_documented_status(open_refusals, headers, method, body):
    sent = []

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        sent.append(message)

    find = ClientFinder(["127.0.0.0/8"])
    with_host = [(b"host", b"localhost"), *headers]
    for given_headers in (headers, with_host):
        sent.clear()
        scope = scope_of(method, headers=given_headers)
        assert find(scope).address
        asyncio.run(open_refusals(scope, receive, send))
        starts = [each for each in sent if each["type"] == "http.response.start"]
        assert [each["status"] in DOCUMENTED for each in starts] == [True]


@given(st.text(max_size=60))
def test_any_text_parses_as_a_host_or_none(text):
    found = split_host(text)
    assert found is None or re.fullmatch(r"[a-z0-9._:-]+", found[0])


@given(st.one_of(st.text(max_size=60), st.ip_addresses().map(str)))
def test_any_forwarded_text_gives_a_client(text):
    headers = [(b"x-forwarded-for", text.encode("utf-8", "surrogatepass"))]
    client = ClientFinder(["0.0.0.0/0"])(scope_of(headers=headers, client=("198.51.100.1", 1)))
    assert not client.is_loopback
