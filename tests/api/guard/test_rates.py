"""Rate limits, which all processes of a database share."""

import os
import time
from math import floor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from limits import RateLimitItemPerMinute
from limits.strategies import SlidingWindowCounterRateLimiter

from services import storage
from services.api.guard.rates import DatabaseCounters
from services.storage import rates
from services.storage.client_models import RateCounter
from services.storage.queue_models import database_seconds
from services.storage.rates import RateWindow
from tests.conftest import wait_until
from tests.programs import Program

HERE = Path(__file__).parent
ELSEWHERE = "203.0.113.7"
KEY = {"X-API-Key": "k"}


@pytest.fixture(autouse=True)
def minute_just_begun(monkeypatch):
    """Set the database's clock back to the start of a minute, so that a test's hits are in one."""
    late = time.time() % 60
    monkeypatch.setattr(rates, "database_seconds", lambda: database_seconds() - late)


def post(served, path="/generate", headers=KEY, **options):
    return served.request("POST", path, json={}, headers=headers, **options)


def test_limit_is_enforced_and_reported(sqlite_database, serve):
    served = serve(api_key="k", rate_limit_per_minute=3)
    answers = [post(served, path, address=ELSEWHERE) for path in ("/generate", "/generate/batch")]
    answers += [post(served, address=ELSEWHERE) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [202, 202, 202, 429, 429]
    remaining = [answer.headers["ratelimit-remaining"] for answer in answers]
    assert remaining == ["2", "1", "0", "0", "0"]
    assert answers[0].headers["ratelimit-limit"] == "3"
    refused = answers[-1]
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert refused.headers["retry-after"] == refused.headers["ratelimit-reset"]
    assert refused.json()["type"].endswith("/rate-limited")
    assert len(served.bodies) == 3
    read = served.request("GET", "/jobs/1", headers=KEY, address=ELSEWHERE)
    assert "ratelimit-limit" not in read.headers


def test_sending_a_job_again_counts_as_a_request_for_music(sqlite_database, serve):
    served = serve(api_key="k", rate_limit_per_minute=2)
    paths = ["/generate", "/jobs/1/retry", "/jobs/2/retry"]
    statuses = [post(served, path, address=ELSEWHERE).status_code for path in paths]
    assert statuses[-1] == 429
    assert 429 not in statuses[:-1]


def test_loopback_is_exempt_and_the_limit_can_be_off(sqlite_database, serve):
    for served, address in (
        (serve(api_key="k", rate_limit_per_minute=1), "::1"),
        (serve(api_key="k", rate_limit_enabled=False), ELSEWHERE),
    ):
        assert {post(served, address=address).status_code for _ in range(4)} == {202}


def test_each_key_has_its_own_limit_at_any_address(sqlite_database, serve):
    served = serve(api_key="k", rate_limit_per_minute=2)
    secrets = []
    for name in ("a", "b"):
        with storage.get_session() as session:
            secrets.append(storage.create_api_key(session, name)[1])
    for secret in secrets:
        headers = {"Authorization": f"Bearer {secret}"}
        addresses = [f"198.51.100.{number}" for number in range(4)]
        statuses = [
            post(served, headers=headers, address=address).status_code for address in addresses
        ]
        assert statuses == [202, 202, 429, 429]


def test_forged_headers_and_new_addresses_do_not_evade_the_limit(sqlite_database, serve):
    served = serve(rate_limit_per_minute=2)
    forged = ["X-Forwarded-For", "Forwarded", "X-Real-IP", "X_Forwarded_For", "Client-IP"]
    statuses = []
    for number in range(1, 6):
        headers = dict.fromkeys(forged, f"127.0.0.{number}")
        answer = post(served, headers=headers, address=f"2001:db8::{number:x}")
        statuses.append(answer.status_code)
    assert statuses == [202, 202, 429, 429, 429]
    assert post(served, headers={}, address="2001:db8:0:1::1").status_code == 202


def test_clients_behind_a_trusted_proxy_are_counted_separately(sqlite_database, serve):
    served = serve(rate_limit_per_minute=1, api_trusted_proxies="127.0.0.1")
    hops = ["198.51.100.1", "198.51.100.2", "127.0.0.1, 198.51.100.1", "::1, 198.51.100.2"]
    statuses = [post(served, headers={"X-Forwarded-For": hop}).status_code for hop in hops]
    assert statuses == [202, 202, 429, 429]


def test_burst_is_accepted_up_to_the_limit(database, serve):
    served = serve(api_key="k")
    options = {"json": {}, "headers": KEY, "address": ELSEWHERE}
    answers = served.requests(40, "POST", "/generate", **options)
    accepted = [answer.status_code for answer in answers].count(202)
    assert accepted == len(served.bodies) == 10


@pytest.mark.parametrize(
    "kind", ["sqlite_url", pytest.param("postgres_url", marks=pytest.mark.postgres)]
)
def test_two_processes_share_the_limit(request, kind, tmp_path):
    database_url = request.getfixturevalue(kind)
    environment = {name: value for name, value in os.environ.items() if name[:4] != "DGX_"} | {
        "DATABASE_URL": database_url,
        "DGX_MUSIC_API_KEY": "the-operators-key",
        "DGX_MUSIC_HOME": str(tmp_path),
        "PYTHONPATH": str(HERE),
    }
    storage.init_db(database_url)
    storage.close_db()
    logs = [tmp_path / "one", tmp_path / "two"]
    script = HERE / "run_requests.py"
    running = [Program(script, "20", env=environment, cwd=tmp_path, log=log) for log in logs]
    wait_until(lambda: all("ready" in log.read_text() for log in logs))
    (tmp_path / "go").touch()
    assert [process.wait() for process in running] == [0, 0], [log.read_text() for log in logs]
    accepted = [int(log.read_text().split()[-1]) for log in logs]
    # One more if the minute ends during the test.
    assert 10 <= sum(accepted) <= 11, accepted


def test_unreachable_database_creates_no_job(sqlite_database, serve, monkeypatch):
    served = serve(api_key="k")

    def away(*_arguments):
        raise storage.DatabaseLockedError("The database is in use.")

    monkeypatch.setattr(storage, "read_rate", away)
    answer = post(served, address=ELSEWHERE)
    assert answer.status_code == 503
    assert "retry-after" in answer.headers
    assert served.bodies == []


def counters():
    with storage.get_session(read_only=True) as session:
        return {row.name: row for row in session.query(RateCounter)}


def test_expired_counters_are_removed(database):
    with storage.get_session() as session:
        session.add_all(
            RateCounter(name=f"old/{number}", hits=1, expires_at=1.0) for number in range(3)
        )
    with storage.get_session() as session:
        assert storage.count_hit(session, "new", 60, 2)
    assert [name.partition("/")[0] for name in counters()] == ["new"]
    with storage.get_session() as session:
        assert storage.count_hit(session, "new", 60, 2)
        assert not storage.count_hit(session, "new", 60, 2)
        storage.reset_rate(session, "new", 60)
        assert not storage.count_hit(session, "new", 60, 2, amount=3)
    assert counters() == {}


DAYS = 1_000_000
"""Seconds, so many that no test crosses their end."""


def test_previous_window_counts_in_proportion(database):
    with storage.get_session() as session:
        now = storage.read_rate(session, "a", DAYS).now
        index = floor(now / DAYS)
        session.add(RateCounter(name=f"a/{index - 1}", hits=100, expires_at=now + 2 * DAYS))
    with storage.get_session() as session:
        seen = storage.read_rate(session, "a", DAYS)
        assert (seen.earlier, seen.hits) == (100, 0)
        assert seen.carried == pytest.approx(100 * seen.left / DAYS)
        counted = 0
        while storage.count_hit(session, "a", DAYS, 101):
            counted += 1
    assert counted - (101 - floor(seen.carried)) in {0, 1}


@given(
    st.floats(0, 2e9), st.integers(0, 200), st.integers(1, 100), st.integers(1, 5),
    st.integers(1, 3600),
)  # fmt: skip
def test_room_is_the_most_that_keeps_the_limit(now, earlier, limit, amount, seconds):
    window = RateWindow(name="a", seconds=seconds, now=now, earlier=earlier, hits=0)
    most = window.compute_threshold(limit, amount)
    if most >= 0:
        assert floor(window.carried + most) + amount <= limit
    assert floor(window.carried + max(0, most + 1)) + amount > limit or most < -1
    assert 0 <= window.left <= seconds


def test_cleared_counter_starts_again(sqlite_database):
    item = RateLimitItemPerMinute(1)
    strategy = SlidingWindowCounterRateLimiter(DatabaseCounters(storage.get_session))
    assert strategy.storage.check()
    assert [strategy.hit(item, "a"), strategy.hit(item, "a")] == [True, False]
    strategy.clear(item, "a")
    assert strategy.test(item, "a")
    assert strategy.get_window_stats(item, "a").remaining == 1


@pytest.mark.parametrize("name", ["incr", "get", "get_expiry", "clear"])
def test_counters_support_no_other_window(sqlite_database, name):
    counters = DatabaseCounters(storage.get_session)
    arguments = ("a", 1) if name == "incr" else ("a",)
    with pytest.raises(NotImplementedError):
        getattr(counters, name)(*arguments)
    with pytest.raises(NotImplementedError):
        counters.reset()


def test_uploads_and_requests_have_separate_limits(sqlite_database, serve):
    served = serve(api_key="k", rate_limit_per_minute=1)
    assert [post(served, address=ELSEWHERE).status_code for _ in range(2)] == [202, 429]
    # The small application has no such route; a refused upload would be 429.
    audio = {"headers": KEY | {"Content-Type": "audio/wav"}, "content": b"x"}
    statuses = [
        served.request("POST", "/inputs", address=ELSEWHERE, **audio).status_code for _ in range(2)
    ]
    assert statuses == [404, 429]
