"""API keys: only digests are stored, and a revoked key opens nothing."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from services import storage
from services.storage import api_keys
from services.storage.api_keys import KEY_PREFIX, NAME_LENGTH, hash_key

if TYPE_CHECKING:
    from services.storage import ApiKey
    from services.storage.connection import Database

pytestmark = pytest.mark.integration


def create(name: str = "studio", key_id: str | None = None) -> tuple[ApiKey, str]:
    with storage.get_session() as session:
        row, secret = storage.create_api_key(session, name)
        if key_id is not None:
            row.id = key_id
    return row, secret


def revoke(text: str) -> ApiKey:
    with storage.get_session() as session:
        return storage.revoke_api_key(session, text)


def find(secret: str) -> ApiKey | None:
    with storage.get_session(read_only=True) as session:
        return storage.find_api_key(session, secret)


def test_key_is_found_by_its_secret_and_stored_as_a_digest(database: Database) -> None:
    row, secret = create()
    found = find(secret)
    assert found is not None
    assert (found.id, found.key_sha256) == (row.id, hash_key(secret))
    with storage.get_session(read_only=True) as session:
        stored = session.connection().exec_driver_sql("SELECT * FROM api_keys").one()
    assert secret not in map(str, stored)
    assert secret.startswith(KEY_PREFIX)


@pytest.mark.parametrize("change", [str.upper, lambda text: text[:-1], lambda text: text + " "])
def test_other_text_than_the_secret_finds_no_key(sqlite_database: Database, change) -> None:
    _, secret = create()
    assert find(change(secret)) is None
    assert find("\udcff") is None


def test_keys_differ_in_id_and_secret(sqlite_database: Database) -> None:
    made = [create() for _ in range(20)]
    assert len({row.id for row, _ in made}) == len({secret for _, secret in made}) == 20


@pytest.mark.parametrize("name", ["", "   ", "x" * (NAME_LENGTH + 1), "tab\there", "\x1b[31m"])
def test_unusable_name_is_refused(sqlite_database: Database, name: str) -> None:
    with pytest.raises(ValueError, match="1 to 100 printable"):
        create(name)


def test_name_is_stripped_and_can_have_the_greatest_length(sqlite_database: Database) -> None:
    assert create("  studio ")[0].name == "studio"
    assert create("é" * NAME_LENGTH)[0].name == "é" * NAME_LENGTH


def test_revoked_key_is_not_found_but_stays_listed(database: Database) -> None:
    row, secret = create()
    other, _ = create("other")
    revoked = revoke(row.id)
    assert revoked.revoked_at is not None
    assert find(secret) is None
    with storage.get_session(read_only=True) as session:
        assert [key.id for key in storage.list_api_keys(session)] == [row.id, other.id]
        assert storage.find_active_keys(session, [row.id, other.id, "none"]) == {other.id}
        assert storage.find_active_keys(session, []) == set()


def test_second_revocation_keeps_the_first_time(sqlite_database: Database) -> None:
    row, _ = create()
    assert revoke(row.id).revoked_at == revoke(row.id).revoked_at


def test_server_that_had_keys_still_has_them_when_all_are_revoked(database: Database) -> None:
    def has_keys() -> bool:
        with storage.get_session(read_only=True) as session:
            return storage.has_api_keys(session)

    assert not has_keys()
    revoke(create()[0].id)
    assert has_keys()


def test_key_to_revoke_is_named_by_id_prefix_name_or_secret(sqlite_database: Database) -> None:
    rows = {}
    for number, text in enumerate(("id", "prefix", "upper", "name", "secret")):
        row, secret = create(f"key {number}", key_id=f"{number}bcdef012345")
        rows[row.id] = {
            "id": row.id, "prefix": row.id[:4], "upper": row.id[:5].upper(), "name": row.name,
            "secret": f" {secret}\n",
        }[text]  # fmt: skip
    for key_id, text in rows.items():
        assert revoke(text).id == key_id


def test_short_prefix_matches_no_key(sqlite_database: Database) -> None:
    create(key_id="abcdef012345")
    with pytest.raises(storage.UnknownApiKeyError, match="No key matches 'abc'"):
        revoke("abc")


def test_ambiguous_text_is_refused_with_the_ids(sqlite_database: Database) -> None:
    create("same", key_id="abcd00000001")
    create("same", key_id="abcd00000002")
    for text in ("same", "abcd"):
        with pytest.raises(storage.UnknownApiKeyError, match="abcd00000001, abcd00000002"):
            revoke(text)


def test_active_key_is_preferred_to_a_revoked_one_of_the_same_name(
    sqlite_database: Database,
) -> None:
    old, _ = create("studio")
    revoke(old.id)
    assert revoke("studio").id == old.id
    new, _ = create("studio")
    assert revoke("studio").id == new.id


def test_unknown_secret_is_not_quoted(sqlite_database: Database) -> None:
    secret = KEY_PREFIX + "leaked"
    with pytest.raises(storage.UnknownApiKeyError) as caught:
        revoke(secret)
    assert "leaked" not in str(caught.value)


def test_use_is_recorded_once_a_minute(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    row, _ = create()
    start = storage.utc_now()
    recorded = []
    for seconds in (0, 59, 61):
        monkeypatch.setattr(api_keys, "utc_now", lambda at=seconds: start + timedelta(seconds=at))
        with storage.get_session() as session:
            storage.touch_api_key(session, row.id)
            storage.touch_api_key(session, "none")
        with storage.get_session(read_only=True) as session:
            (key,) = storage.list_api_keys(session)
        assert key.last_used_at is not None
        recorded.append((key.last_used_at - start).total_seconds())
    assert recorded == [0, 0, 61]
