"""pg_dump and pg_restore: arguments, environment and failures, with programs of our own."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.storage import BackupError, OverwriteRefusedError, postgres_tools
from services.storage.connection import resolve_url

URL = resolve_url("postgresql://me:sesame@db:5433/music")


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setattr(postgres_tools, "_DEBIAN_SERVERS", tmp_path / "none")
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def write_program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_password_is_in_the_environment_and_not_in_the_arguments(
    programs: Path, tmp_path: Path
) -> None:
    script = 'for last; do :; done; echo "$PGPASSWORD $PGHOST $PGPORT $*" > "${last#--file=}"'
    write_program(programs, "pg_dump", script)
    postgres_tools.dump(URL, tmp_path / "one.backup", force=False)
    password, host, port, arguments = (tmp_path / "one.backup").read_text().split(" ", 3)
    assert (password, host, port) == ("sesame", "db", "5433")
    assert "sesame" not in arguments
    assert "--format=custom" in arguments


def test_failure_is_reported_with_its_last_line(programs: Path, tmp_path: Path) -> None:
    write_program(programs, "pg_dump", "echo first >&2; echo 'no route to host' >&2; exit 1")
    with pytest.raises(BackupError, match=r"^pg_dump failed: no route to host$"):
        postgres_tools.dump(URL, tmp_path / "one.backup", force=False)
    assert not (tmp_path / "one.backup").exists()


def test_silent_failure_is_reported_with_its_status(programs: Path, tmp_path: Path) -> None:
    write_program(programs, "pg_restore", "exit 7")
    with pytest.raises(BackupError, match="pg_restore failed: exit status 7"):
        postgres_tools.restore(URL, tmp_path / "one.backup")


def test_existing_backup_is_not_dumped_over_without_force(programs: Path, tmp_path: Path) -> None:
    write_program(programs, "pg_dump", "exit 7")
    (tmp_path / "one.backup").write_text("mine")
    with pytest.raises(OverwriteRefusedError):
        postgres_tools.dump(URL, tmp_path / "one.backup", force=False)


def test_restore_is_one_transaction(programs: Path, tmp_path: Path) -> None:
    write_program(programs, "pg_restore", f'echo "$*" > {tmp_path}/arguments')
    postgres_tools.restore(URL, tmp_path / "one.backup")
    arguments = (tmp_path / "arguments").read_text().split()
    assert {"--single-transaction", "--clean", "--if-exists", "--dbname=music"} <= set(arguments)
    assert arguments[-1] == str(tmp_path / "one.backup")


@pytest.mark.parametrize(
    ("listing", "revision"),
    [
        (r"COPY public.alembic_version (version_num) FROM stdin;\n003\n\\.\n", "003"),
        (r"COPY alembic_version (version_num) FROM stdin;\n1a2b\n", "1a2b"),
        ("SET statement_timeout = 0;", None),
    ],
)
def test_revision_is_read_from_the_listing(
    programs: Path, tmp_path: Path, listing: str, revision: str | None
) -> None:
    write_program(programs, "pg_restore", f"printf '{listing}'")
    assert postgres_tools.read_revision(tmp_path / "one.backup") == revision
