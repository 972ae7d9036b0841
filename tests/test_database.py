"""The database opened with the settings, and its errors for callers."""

from __future__ import annotations

from pathlib import Path

import pytest

from services import errors, storage
from services.config import Settings
from services.database import MIN_IDLE_SECONDS, open_database, storage_errors
from services.storage.database import get_database


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(database_url=f"sqlite:///{tmp_path}/music.db")


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (storage.InvalidCursorError, errors.UnknownPageError),
        (storage.InvalidSearchError, errors.InvalidRequestError),
        (storage.UnknownApiKeyError, errors.UnknownKeyError),
        (storage.DatabaseLockedError, errors.StorageError),
        (storage.DatabaseFullError, errors.StorageError),
        (storage.DatabaseNotInitialisedError, errors.StorageError),
    ],
)
def test_error_of_the_storage_keeps_its_message(
    raised: type[storage.StorageError], expected: type[errors.DGXMusicError]
) -> None:
    with pytest.raises(expected) as caught, storage_errors():
        raise raised("what happened, and what to do")
    assert type(caught.value) is expected
    assert str(caught.value) == "what happened, and what to do"
    assert type(caught.value.__cause__) is raised


def test_error_in_the_url_names_the_setting() -> None:
    with pytest.raises(errors.StorageError, match=r"^DATABASE_URL: "), storage_errors():
        raise storage.InvalidDatabaseURLError("It is not valid.")


def test_other_errors_pass_through() -> None:
    with pytest.raises(KeyError), storage_errors():
        raise KeyError


@pytest.mark.integration
def test_open_database_stays_open(settings: Settings) -> None:
    open_database(settings)
    first = get_database()
    open_database(settings)
    assert get_database() is first


@pytest.mark.integration
def test_another_url_opens_another_database(settings: Settings, tmp_path: Path) -> None:
    open_database(settings)
    first = get_database()
    open_database(settings.model_copy(update={"database_url": f"sqlite:///{tmp_path}/b.db"}))
    assert get_database() is not first
    assert sorted(file.name for file in tmp_path.glob("*.db")) == ["b.db", "music.db"]


@pytest.mark.integration
def test_unusable_database_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("no database " * 500)
    with pytest.raises(errors.StorageError, match="not an SQLite database"):
        open_database(Settings(database_url=f"sqlite:///{tmp_path}/notes.db"))
    assert not storage.is_open()


@pytest.mark.integration
@pytest.mark.parametrize(("long_lived", "cache"), [(False, storage.CACHE_KIB), (True, 512)])
def test_long_lived_process_has_open_connections_with_small_caches(
    settings: Settings, long_lived: bool, cache: int
) -> None:
    open_database(settings, long_lived=long_lived)
    pool = get_database().engine.pool
    with get_database().engine.connect() as connection:
        size = connection.exec_driver_sql("PRAGMA cache_size").scalar_one()
        assert size == -cache
        if long_lived:
            assert pool.checkedin() == 14  # type: ignore[attr-defined] - a QueuePool


@pytest.mark.parametrize(("ttl", "expected"), [(30.0, 15.0), (2.0, MIN_IDLE_SECONDS)])
def test_transaction_ends_before_its_frozen_worker_counts_as_dead(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, ttl: float, expected: float
) -> None:
    given: dict[str, object] = {}
    monkeypatch.setattr(storage, "init_db", lambda _url, **options: given.update(options))
    open_database(settings.model_copy(update={"worker_ttl_seconds": ttl}))
    assert given["idle_timeout_seconds"] == expected
    assert given["busy_timeout_seconds"] == settings.database_timeout_seconds
