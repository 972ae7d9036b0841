"""Rules for SQLite, database URLs and errors, tested without a database."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from services import storage
from services.storage import connection, errors, postgres, sqlite, sqlite_driver
from services.storage.connection import Database, resolve_url

WITH_THE_FIX = [
    "3.44.6",
    "3.44.9",
    "3.50.7",
    "3.50.12",
    "3.51.3",
    "3.51.9",
    "3.52.1",
    "3.53.0",
    "4.0.0",
]
WITHOUT_THE_FIX = [
    "3.7.0", "3.37.2", "3.40.1", "3.44.5", "3.45.1", "3.46.1", "3.49.2", "3.50.0", "3.50.6",
    "3.51.0", "3.51.2", "3.52.0",
]  # fmt: skip


def parsed(version: str) -> tuple[int, int, int]:
    major, minor, patch = map(int, version.split("."))
    return major, minor, patch


@pytest.mark.parametrize("version", WITH_THE_FIX)
def test_wal_is_used_with_the_fix(version: str) -> None:
    assert sqlite_driver.wal_is_safe(parsed(version))
    assert sqlite_driver.choose_journal_mode(parsed(version)) == "WAL"


@pytest.mark.parametrize("version", WITHOUT_THE_FIX)
def test_rollback_journal_is_used_without_the_fix(version: str) -> None:
    assert not sqlite_driver.wal_is_safe(parsed(version))
    assert sqlite_driver.choose_journal_mode(parsed(version)) == "PERSIST"


def test_library_is_described() -> None:
    facts = storage.describe_sqlite_library()
    assert parsed(facts["version"]) == sqlite_driver.get_library_version()
    assert facts["journal_mode"] == ("wal" if facts["wal_is_safe"] else "persist")
    assert isinstance(facts["fts5"], bool)


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("sqlite:////abs/a.db", Path("/abs/a.db")),
        ("sqlite://", None),
        ("sqlite:///:memory:", None),
        ("sqlite:///file:/x.db?mode=ro&uri=true", None),
        ("postgresql://localhost/music", None),
    ],
)
def test_file_of_a_url(url: str, file: Path | None) -> None:
    assert storage.database_file(url) == file


def test_relative_file_is_in_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.database_file() == tmp_path / "data" / "generations.db"


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_postgresql_means_psycopg_3(scheme: str) -> None:
    url = resolve_url(f"{scheme}://me:pw@host/music")
    assert url.drivername == "postgresql+psycopg"
    assert url.password == "pw"


@pytest.mark.parametrize(
    "url",
    [
        "me:sesame@host/db",
        "sesame",
        "postgresql://me:sesame@host:port/db",
        "mysql://me:sesame@host/db",
        "postgresql+psycopg2://me:sesame@host/db",
        "sqlite+aiosqlite:///sesame.db",
        "sqlite://sesame.db",
    ],
)
def test_invalid_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(storage.InvalidDatabaseURLError) as caught:
        resolve_url(url)
    assert "sesame" not in str(caught.value)
    assert "sqlite:///" in str(caught.value)


def test_invalid_url_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "nonsense")
    with pytest.raises(storage.InvalidDatabaseURLError):
        storage.init_db()


def test_missing_psycopg_is_reported_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.storage.postgres.find_spec", lambda _name: None)
    with pytest.raises(storage.MissingDriverError, match=r"psycopg\[binary\]"):
        Database(resolve_url("postgresql://localhost/music"))


OPTIONS = "-c lock_timeout=500 -c idle_in_transaction_session_timeout=15000 -c timezone=UTC"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", {"connect_timeout": 10, "options": OPTIONS}),
        ("?connect_timeout=3", {"options": OPTIONS}),
        ("?options=-c%20search_path%3Dmusic", {"connect_timeout": 10}),
    ],
)
def test_connection_options_of_the_url_are_kept(
    monkeypatch: pytest.MonkeyPatch, query: str, expected: dict[str, object]
) -> None:
    given: list[dict[str, object]] = []

    def note(url: object, **options: Any) -> object:
        given.append(options["connect_args"])
        return create_engine(url, **options)  # type: ignore[call-overload] - passed on as given

    create_engine = postgres.create_engine
    monkeypatch.setattr(postgres, "create_engine", note)
    Database(resolve_url(f"postgresql://host/music{query}"), busy_timeout_seconds=0.5)
    assert given == [expected, expected]  # one engine that writes, one that reads


def test_name_of_a_database_has_no_password() -> None:
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("psycopg is not installed")
    database = Database(resolve_url("postgresql://me:sesame@host/music"))
    assert database.name == "the PostgreSQL database 'music' at host"
    assert Database(make_url("sqlite://")).name == "in memory"


def translate_driver_error(**attributes: Any) -> storage.StorageError | None:
    cause = type(attributes.pop("kind", "Error"), (Exception,), {})(attributes.pop("text", ""))
    for name, value in attributes.items():
        setattr(cause, name, value)
    return errors.translate(DBAPIError("SELECT 1", {}, cause), "the database")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (5, errors.DatabaseLockedError),
        (5 | 2 << 8, errors.DatabaseLockedError),
        (8, errors.DatabaseReadOnlyError),
        (10 | 3 << 8, errors.DatabaseFullError),
        (11, errors.DatabaseCorruptError),
        (13, errors.DatabaseFullError),
        (14, errors.DatabasePermissionError),
        (26, errors.NotADatabaseError),
    ],
)
def test_sqlite_codes_become_errors_of_the_tree(
    code: int, kind: type[storage.StorageError]
) -> None:
    error = translate_driver_error(sqlite_errorcode=code)
    assert type(error) is kind
    assert "the database" in str(error)


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("08006", errors.DatabaseUnreachableError),
        ("28P01", errors.DatabasePermissionError),
        ("3D000", errors.DatabaseUnreachableError),
        ("53100", errors.DatabaseFullError),
        ("57P03", errors.DatabaseUnreachableError),
        ("55P03", errors.DatabaseLockedError),
        ("42501", errors.DatabasePermissionError),
    ],
)
def test_postgresql_states_become_errors_of_the_tree(
    state: str, kind: type[storage.StorageError]
) -> None:
    assert type(translate_driver_error(sqlstate=state)) is kind


def test_unreachable_server_is_reported_with_the_reason() -> None:
    error = translate_driver_error(
        sqlstate=None, kind="OperationalError", text="line\nno route {to} host"
    )
    assert type(error) is errors.DatabaseUnreachableError
    assert "no route {to} host" in str(error)


def test_broken_constraint_is_not_translated() -> None:
    assert translate_driver_error(sqlite_errorcode=19) is None
    assert translate_driver_error(sqlstate="23505") is None
    assert translate_driver_error(kind="Surprise") is None


def test_file_that_cannot_be_created_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tests may run as root, who ignores file permissions.
    def refuse(*_arguments: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("services.storage.sqlite.os.open", refuse)
    with pytest.raises(storage.DatabasePermissionError, match="Permission denied"):
        sqlite.prepare_file(tmp_path / "new.db")


@pytest.mark.parametrize(
    ("missing", "kind"),
    [(os.W_OK, storage.DatabaseReadOnlyError), (os.R_OK, storage.DatabasePermissionError)],
)
def test_missing_read_and_write_permissions_are_distinguished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: int, kind: type[storage.StorageError]
) -> None:
    present = tmp_path / "present.db"
    present.touch()
    monkeypatch.setattr(
        "services.storage.sqlite.os.access", lambda _path, right, **_options: right != missing
    )
    with pytest.raises(kind, match="Check the permissions"):
        sqlite.prepare_file(present)


def test_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(storage.DatabasePermissionError, match="directory"):
        storage.init_db(f"sqlite:///{tmp_path}")


def test_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(storage.DatabasePermissionError):
        storage.init_db(f"sqlite:///{tmp_path}/data/a.db")


def test_default_timeout_is_half_a_minute() -> None:
    assert connection.BUSY_TIMEOUT_SECONDS == 30.0


def test_unescaped_at_sign_in_a_password_is_refused() -> None:
    with pytest.raises(storage.InvalidDatabaseURLError, match="%40") as caught:
        resolve_url("postgresql://bob:S3cr@etPW@127.0.0.1:9/x")
    assert "etPW" not in str(caught.value)


def test_options_of_an_sqlite_url_are_refused() -> None:
    with pytest.raises(storage.InvalidDatabaseURLError, match="no options"):
        resolve_url("sqlite:///x.db?mode=ro")
