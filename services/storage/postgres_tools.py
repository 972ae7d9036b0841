"""Run pg_dump and pg_restore."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from services.storage.errors import BackupError
from services.storage.snapshot import publish

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

_DEBIAN_SERVERS = Path("/usr/lib/postgresql")
_LIBPQ_NAMES = {"username": "PGUSER", "host": "PGHOST", "port": "PGPORT", "database": "PGDATABASE"}
_VERSION_ROW = re.compile(
    r"^COPY [\w.]*alembic_version \(version_num\) FROM stdin;\n(\S+)$", re.MULTILINE
)


def dump(url: URL, destination: Path, *, force: bool) -> None:
    """Write an archive of the whole database in pg_dump's custom format, mode 0600.

    Raises:
        OverwriteRefusedError: the destination exists and `force` is False.
        BackupError: pg_dump is not installed, or failed.
    """

    def write(part: Path) -> None:
        _run("pg_dump", "--format=custom", f"--file={part}", url=url)

    publish(destination, write, force=force)


def restore(url: URL, source: Path) -> None:
    """Replace the objects that the archive holds, in one transaction; raises as `dump`."""
    _run(
        "pg_restore",
        "--clean",
        "--if-exists",
        "--no-owner",
        "--no-privileges",
        "--single-transaction",
        f"--dbname={url.database}",
        str(source),
        url=url,
    )


def read_revision(source: Path) -> str | None:
    """Return the revision in an archive, or None without one. Raises as `dump`."""
    listed = _run("pg_restore", "--data-only", "--table=alembic_version", "--file=-", str(source))
    found = _VERSION_ROW.search(listed)
    return found.group(1) if found else None


def find_tool(name: str) -> str:
    """Return the path of a PostgreSQL program: Debian's newest version, else the one on PATH.

    Raises:
        BackupError: the program is not installed.
    """
    servers = sorted(
        _DEBIAN_SERVERS.glob("[0-9]*/bin"), key=lambda folder: int(folder.parent.name), reverse=True
    )
    for folder in servers:
        if (folder / name).is_file():
            return str(folder / name)
    found = shutil.which(name)
    if found is None:
        raise BackupError(f"{name} is not installed. Install the PostgreSQL client programs.")
    return found


def _run(name: str, *arguments: str, url: URL | None = None) -> str:
    # Other users can read arguments but not the environment, which holds the password.
    done = subprocess.run(  # noqa: S603 - the program is PostgreSQL's own, without a shell
        [find_tool(name), *arguments],
        env=os.environ | _environment(url),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise BackupError(f"{name} failed: {lines[-1]}")
    return done.stdout


def _environment(url: URL | None) -> dict[str, str]:
    if url is None:
        return {}
    named = {
        variable: str(getattr(url, attribute))
        for attribute, variable in _LIBPQ_NAMES.items()
        if getattr(url, attribute) is not None
    }
    if url.password is not None:
        named["PGPASSWORD"] = str(url.password)
    for option, variable in (("host", "PGHOST"), ("port", "PGPORT"), ("sslmode", "PGSSLMODE")):
        value = url.query.get(option)
        if isinstance(value, str):
            named[variable] = value
    return named
