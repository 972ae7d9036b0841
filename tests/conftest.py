"""Databases for tests: SQLite files, and a private PostgreSQL server where one is installed."""

from __future__ import annotations

import http.client
import itertools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest

from services import storage
from services.storage import sqlite_driver
from services.storage.connection import Database, resolve_url
from services.storage.database import get_database

# Two workers share two cores: threads of theirs would only wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Triton reads it when it is first imported; its kernels then run on the CPU, where it is at all.
os.environ.setdefault("TRITON_INTERPRET", "1")

# A shared machine may pause any example for longer than a deadline allows.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")

REQUIRED = "DGX_MUSIC_TEST_REQUIRE"
SERVER_USER = "postgres"
SERVER_PACKAGES = Path("/usr/lib/postgresql")
NUMBERS = itertools.count()


def as_server_user(command: list[str]) -> list[str]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return command
    return ["runuser", "-u", SERVER_USER, "--", *command]


def find_server_programs() -> Path | None:
    installed = sorted(
        SERVER_PACKAGES.glob("[0-9]*/bin/initdb"), key=lambda file: int(file.parts[-3])
    )
    if installed:
        return installed[-1].parent
    on_path = shutil.which("initdb")
    return None if on_path is None else Path(on_path).resolve().parent


def install_server() -> None:
    """Debian's package makes and starts a cluster of its own unless it is told not to."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    settings = Path("/etc/postgresql-common")
    settings.mkdir(parents=True, exist_ok=True)
    if not (settings / "createcluster.conf").exists():
        (settings / "createcluster.conf").write_text("create_main_cluster = false\n")
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "update", "-qq"],
        ["apt-get", "install", "-y", "-qq", "postgresql"],
    ):
        subprocess.run(command, env=quiet, capture_output=True, check=False, timeout=600)


@dataclass(frozen=True)
class Server:
    """A PostgreSQL server that listens on a socket in its own folder only."""

    programs: Path
    folder: Path

    def run(self, program: str, *arguments: str) -> None:
        command = as_server_user([str(self.programs / program), *arguments])
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder, timeout=120)

    def start(self) -> None:
        data = str(self.folder / "data")
        self.run(
            "initdb", "-D", data, "-U", "music", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"
        )
        options = f"-k {self.folder} -c listen_addresses= -c max_connections=60"
        log = str(self.folder / "log")
        self.run("pg_ctl", "-D", data, "-l", log, "-o", options, "-w", "start")

    def stop(self) -> None:
        self.run("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "-w", "stop")

    def url(self, database: str) -> str:
        return f"postgresql://music@/{database}?host={self.folder}"

    def new_database(self) -> str:
        name = f"music_{os.getpid()}_{next(NUMBERS)}"
        self.run("createdb", "-h", str(self.folder), "-U", "music", name)
        return self.url(name)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    programs = find_server_programs()
    if programs is None:
        install_server()
        programs = find_server_programs()
    if programs is None:
        reason = "PostgreSQL is not installed, and could not be"
        if "postgres" in os.environ.get(REQUIRED, ""):
            pytest.fail(reason)
        pytest.skip(reason)
    # A socket's path has room for 107 characters; pytest's own folders are too deep.
    folder = Path(tempfile.mkdtemp(prefix="music-pg-"))
    if os.geteuid() == 0:
        shutil.chown(folder, SERVER_USER)
    server = Server(programs, folder)
    try:
        server.start()
        yield server
        server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class BucketServer:
    """A server that speaks S3, in a process of its own; what it keeps ends with it."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
        )
        end = time.monotonic() + 60
        while not self._answers():
            if time.monotonic() > end or self.process.poll() is not None:
                raise AssertionError("moto_server did not start")
            time.sleep(0.02)

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def new_bucket(self) -> str:
        name = f"music-{next(NUMBERS)}"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("PUT", f"/{name}")
        assert connection.getresponse().status == 200
        connection.close()
        return f"s3://{name}/takes"

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="session")
def bucket_server() -> Iterator[BucketServer]:
    server = BucketServer()
    yield server
    server.stop()


@pytest.fixture
def bucket_url(bucket_server: BucketServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bucket, with the variables that lead to it."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{bucket_server.port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    return bucket_server.new_bucket()


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'data' / 'generations.db'}"


@pytest.fixture
def postgres_url(postgres_server: Server) -> str:
    return postgres_server.new_database()


@pytest.fixture
def standard_library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Without the bundled SQLite, as where its package is not installed."""
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, sqlite_driver.BUNDLED, None)
        sqlite_driver.load_library.cache_clear()
        yield
        storage.close_db()
    sqlite_driver.load_library.cache_clear()


@pytest.fixture(
    params=["sqlite", "sqlite-of-python", pytest.param("postgresql", marks=pytest.mark.postgres)]
)
def database_url(request: pytest.FixtureRequest) -> str:
    """An empty database of each kind, SQLite also with the library that Python is linked with."""
    if request.param == "sqlite-of-python":
        request.getfixturevalue("standard_library")
    name = "postgres_url" if request.param == "postgresql" else "sqlite_url"
    url: str = request.getfixturevalue(name)
    return url


@pytest.fixture(autouse=True)
def _empty_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A home folder for each test, which is never the checkout; no database stays open."""
    monkeypatch.setenv("DGX_MUSIC_HOME", str(tmp_path))
    monkeypatch.delenv("DATABASE_URL", raising=False)
    yield
    storage.close_db()


@pytest.fixture
def database(database_url: str) -> Database:
    """An open database of each kind, with our tables."""
    storage.init_db(database_url)
    return get_database()


@pytest.fixture
def sqlite_database(sqlite_url: str) -> Database:
    storage.init_db(sqlite_url)
    return get_database()


@pytest.fixture
def postgres_database(postgres_url: str) -> Database:
    storage.init_db(postgres_url)
    return get_database()


@pytest.fixture
def bare_database(database_url: str) -> Iterator[Database]:
    """An open database of each kind, without tables."""
    opened = Database(resolve_url(database_url))
    yield opened
    opened.close()
