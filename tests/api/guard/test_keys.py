"""API keys: creation, storage, look-up, revocation and authentication."""

import asyncio
import hashlib
import json
import logging
import secrets

import pytest
from anyio import CapacityLimiter
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from services import storage
from services.api.guard import authentication, require_key
from services.api.guard.authentication import CACHE_SECONDS, Keys
from services.api.problems import ProblemError
from services.cli import app as command_line
from services.config import Settings
from services.errors import SettingsError, UnknownKeyError
from services.storage.api_keys import hash_key

ELSEWHERE = "203.0.113.7"


def new_key(name="laptop"):
    with storage.get_session() as session:
        row, secret = storage.create_api_key(session, name)
    return row.id, secret


def bearer(secret):
    return {"Authorization": f"Bearer {secret}"}


def revoke(text):
    with storage.get_session() as session:
        return storage.revoke_api_key(session, text)


def test_key_is_stored_as_digest_and_found_until_revoked(database):
    key_id, secret = new_key("  the studio's laptop ")
    assert secret.startswith("dgxm_")
    assert len(secret) >= len("dgxm_") + 43
    with storage.get_session(read_only=True) as session:
        (row,) = storage.list_api_keys(session)
        assert row.name == "the studio's laptop"
        assert row.key_sha256 == hashlib.sha256(secret.encode()).hexdigest()
        assert storage.find_api_key(session, secret).id == key_id
        assert storage.find_api_key(session, secret[:-1]) is None
    assert revoke(key_id[:4]).revoked_at is not None
    with storage.get_session(read_only=True) as session:
        assert storage.find_api_key(session, secret) is None
        assert storage.has_api_keys(session)


def test_key_is_revoked_by_id_or_unique_name(sqlite_database):
    first, second = new_key("pad")[0], new_key("pad")[0]
    with pytest.raises(storage.UnknownApiKeyError, match=f"{first}, {second}|{second}, {first}"):
        revoke("pad")
    moment = revoke(first).revoked_at
    assert revoke("pad").id == second
    assert revoke(first).revoked_at == moment
    third, secret = new_key("lead")
    assert revoke(secret).id == third
    for unknown in ("nobody", "", second[:3], "%", "_" * 12):
        with pytest.raises(storage.UnknownApiKeyError, match="No key"):
            revoke(unknown)


def test_error_does_not_repeat_an_unknown_key(sqlite_database):
    with pytest.raises(storage.UnknownApiKeyError) as caught:
        revoke("dgxm_secret")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 101, "\x1b[31m"])
def test_unprintable_key_name_is_refused(sqlite_database, name):
    with storage.get_session() as session, pytest.raises(ValueError, match="name of a key"):
        storage.create_api_key(session, name)


def test_use_is_recorded_at_most_once_a_minute(database):
    key_id, _secret = new_key()
    moments = []
    for _ in range(2):
        with storage.get_session() as session:
            storage.touch_api_key(session, key_id)
        with storage.get_session(read_only=True) as session:
            moments.append(storage.list_api_keys(session)[0].last_used_at)
    assert moments[0] is not None
    assert moments[0] == moments[1]


def test_digests_are_compared_in_constant_time(sqlite_database, serve, monkeypatch):
    compared = []

    def compare(one, other):
        compared.append((one, other))
        return one == other

    monkeypatch.setattr(secrets, "compare_digest", compare)
    served = serve(api_key="the-operators-key")
    _id, secret = new_key()
    assert served.request("GET", "/jobs/1", headers=bearer("the-operators-kez")).status_code == 401
    assert served.request("GET", "/jobs/1", headers=bearer(secret)).status_code == 200
    # Both are compared with the operator's key, the second also with the key the index found.
    assert [len(one) for one, _other in compared] == [32, 32, 64]
    assert all(len(one) == len(other) for one, other in compared)


def test_server_without_keys_is_open_on_loopback_only(sqlite_database, serve):
    served = serve()
    for address in ("127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"):
        answer = served.request("GET", "/jobs/1", address=address)
        assert (answer.status_code, answer.json()["sees_all"]) == (200, True)
    assert served.request("GET", "/jobs/1", address=ELSEWHERE).json()["name"] == ELSEWHERE
    assert serve(host="0.0.0.0").request("GET", "/jobs/1").status_code == 401


def test_keys_are_required_and_identify_the_owner(sqlite_database, serve):
    served = serve(api_key="the-operators-key", api_host="0.0.0.0")
    key_id, secret = new_key()
    refused = served.request("GET", "/jobs/1")
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    assert refused.json()["type"].endswith("/key-required")
    for headers in (bearer(secret), {"X-API-Key": secret}, {"Authorization": f"bearer  {secret}"}):
        answer = served.request("GET", "/jobs/1", headers=headers, address=ELSEWHERE)
        assert answer.json() == {"owner": key_id, "sees_all": False, "name": key_id}
    answer = served.request("GET", "/jobs/1", headers=bearer("the-operators-key"))
    assert answer.json() == {"owner": None, "sees_all": True, "name": "operator"}
    both = bearer(secret) | {"X-API-Key": "the-operators-key"}
    assert served.request("GET", "/jobs/1", headers=both).status_code == 401
    assert served.request("GET", "/health", address=ELSEWHERE).status_code == 200
    assert served.request("GET", "/healthy").status_code == 401


def test_first_key_closes_a_running_server_for_good(sqlite_database):
    now = [0.0]

    with asyncio.Runner() as runner:
        keys = Keys(CapacityLimiter(1), clock=lambda: now[0])
        assert not runner.run(keys.has_any())
        new_key()
        assert not runner.run(keys.has_any())
        now[0] += CACHE_SECONDS
        assert runner.run(keys.has_any())
        storage.reset_database()
        now[0] += CACHE_SECONDS
        assert runner.run(keys.has_any())


def test_revoked_key_is_refused_after_the_cache_time(database):
    now = [0.0]
    key_id, secret = new_key()
    with asyncio.Runner() as runner:
        keys = Keys(CapacityLimiter(1), clock=lambda: now[0])
        assert runner.run(keys.find_id(secret)) == key_id
        revoke(key_id)
        now[0] += CACHE_SECONDS - 0.1
        assert runner.run(keys.find_id(secret)) == key_id
        now[0] += 0.1
        assert runner.run(keys.find_id(secret)) is None
        assert runner.run(keys.find_id(secret)) is None
    assert CACHE_SECONDS <= 5.0


def test_requests_with_one_key_query_the_database_once(sqlite_database, serve, monkeypatch):
    _id, secret = new_key()
    asked = []
    found = authentication._find_key

    def count(secret):
        asked.append(secret)
        return found(secret)

    monkeypatch.setattr(authentication, "_find_key", count)
    served = serve(api_key="the-operators-key")
    served.request("GET", "/jobs/1", headers=bearer(secret))
    answers = served.requests(50, "GET", "/jobs/1", headers=bearer(secret))
    assert {answer.status_code for answer in answers} == {200}
    assert len(asked) == 1
    with storage.get_session(read_only=True) as session:
        assert storage.list_api_keys(session)[0].last_used_at is not None


def test_unreachable_database_lets_nobody_in(sqlite_database, serve, monkeypatch, caplog):
    served = serve()
    _id, secret = new_key()

    def away(**_options):
        raise storage.DatabaseUnreachableError("/secret/place does not answer")

    monkeypatch.setattr(storage, "get_session", away)
    for headers in ({}, bearer(secret)):
        with caplog.at_level(logging.WARNING):
            answer = served.request("GET", "/jobs/1", headers=headers)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        assert "/secret/place" not in answer.text
    assert "/secret/place" in caplog.text
    assert served.request("GET", "/health").status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "music.lan", ""])
def test_public_address_needs_a_key(sqlite_database, host):
    with pytest.raises(SettingsError, match="keys create"):
        require_key(Settings(_env_file=None), host)
    require_key(Settings(_env_file=None, api_key="k"), host)
    key_id, _secret = new_key()
    revoke(key_id)
    require_key(Settings(_env_file=None), host)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.0.0.2"])
def test_loopback_needs_no_key(host):
    require_key(Settings(_env_file=None), host)


@pytest.fixture(scope="module")
def keys_without_database():
    return Keys(limiter=None)  # type: ignore[arg-type]


@given(st.one_of(st.text(), st.binary().map(lambda raw: raw.decode("latin-1"))))
def test_text_that_cannot_be_a_key_is_not_looked_up(keys_without_database, sent):
    assert asyncio.run(keys_without_database.find_id(sent)) is None


@given(st.text())
def test_any_text_has_a_digest(text):
    assert len(hash_key(text)) == 64


def test_keys_create_prints_the_key_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'g.db'}")
    runner = CliRunner()
    made = runner.invoke(command_line, ["keys", "create", "laptop"])
    assert made.exit_code == 0, made.output
    secret = made.stdout.removesuffix("\n")
    assert secret.startswith("dgxm_")
    assert "\n" not in secret
    assert secret not in made.stderr
    as_json = json.loads(runner.invoke(command_line, ["keys", "create", "b", "--json"]).stdout)
    listed = runner.invoke(command_line, ["keys", "list"])
    assert secret not in listed.stdout
    assert as_json["id"] in listed.stdout
    assert len(listed.stdout.splitlines()) == 2
    revoked = runner.invoke(command_line, ["keys", "revoke", "laptop", "--json"])
    assert json.loads(revoked.stdout)["revoked_at"] is not None
    assert secret not in (tmp_path / "g.db").read_bytes().decode("latin-1")


def test_keys_revoke_reports_an_unknown_key(tmp_path, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'g.db'}")
    runner = CliRunner()
    failed = runner.invoke(command_line, ["keys", "revoke", "nobody"])
    assert isinstance(failed.exception, UnknownKeyError)
    assert failed.exception.exit_code == 3
    refused = runner.invoke(command_line, ["keys", "create", " "])
    assert refused.exception.exit_code == 2


def test_refusal_says_how_to_create_a_key():
    error = ProblemError("key-required", "No key was sent.")
    assert "keys create" in error.kind.advice


def test_requests_after_the_cache_time_query_the_database_once(sqlite_database, monkeypatch):
    now, looked_up = [0.0], []
    key_id, secret = new_key()
    find_key = authentication._find_key

    def count(secret):
        looked_up.append(secret)
        return find_key(secret)

    monkeypatch.setattr(authentication, "_find_key", count)

    async def find_many(keys):
        return await asyncio.gather(*(keys.find_id(secret) for _ in range(20)))

    with asyncio.Runner() as runner:
        keys = Keys(CapacityLimiter(4), clock=lambda: now[0])
        assert runner.run(keys.find_id(secret)) == key_id
        now[0] += CACHE_SECONDS
        assert runner.run(find_many(keys)) == [key_id] * 20
    assert len(looked_up) == 2


def test_concurrent_requests_without_a_key_query_the_database_once(sqlite_database, monkeypatch):
    queries = []

    def count():
        queries.append(1)
        return False

    monkeypatch.setattr(authentication, "_has_keys", count)

    async def ask_many(keys):
        return await asyncio.gather(*(keys.has_any() for _ in range(20)))

    assert asyncio.run(ask_many(Keys(CapacityLimiter(4)))) == [False] * 20
    assert len(queries) == 1


def test_recording_the_use_of_a_key_never_fails(sqlite_database, monkeypatch):
    key_id, _secret = new_key()

    def away(**_options):
        raise storage.DatabaseLockedError("The database is in use.")

    monkeypatch.setattr(storage, "get_session", away)
    asyncio.run(Keys(CapacityLimiter(1)).record_use(key_id))


@pytest.mark.parametrize(
    "header", ["Basic abc", "Bearer", "Bearer a b", "Token the-operators-key", "the-operators-key"]
)
def test_other_authorization_is_no_key(sqlite_database, serve, header):
    served = serve(api_key="the-operators-key")
    answer = served.request("GET", "/jobs/1", headers={"Authorization": header})
    assert (answer.status_code, answer.json()["detail"]) == (401, "Send an API key.")


def test_the_same_key_in_both_headers_is_one_key(sqlite_database, serve):
    served = serve(api_key="the-operators-key")
    both = bearer("the-operators-key") | {"X-API-Key": "the-operators-key"}
    assert served.request("GET", "/jobs/1", headers=both).status_code == 200
    refused = served.request("GET", "/jobs/1", headers=bearer("another"))
    assert refused.json()["detail"] == "This API key is unknown or revoked."
