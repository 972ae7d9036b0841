"""What all tests share: databases, a bucket, a home folder, waiting, and the settings of a run."""

from __future__ import annotations

import fcntl
import gc
import http.client
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis
import psycopg
import pytest

from services import storage
from services.jobs.dbos_queue import QueueManager
from services.storage import sqlite_driver
from services.storage.connection import Database, resolve_url
from services.storage.database import get_database

# Nearly all that is imported for the tests stays until the end: it is not searched for cycles.
gc.disable()

# The workers share the cores: threads of theirs would only wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Triton reads it when it is first imported; its kernels then run on the CPU, where it is at all.
os.environ.setdefault("TRITON_INTERPRET", "1")

EXAMPLES = 12
"""Examples of a property in each run. Each run draws others, so that many runs try many."""

# A program under test would read the metadata of every package to find plugins.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

# A shared machine may pause any example for longer than a deadline allows.
hypothesis.settings.register_profile(
    "unhurried", deadline=None, print_blob=True, max_examples=EXAMPLES
)
hypothesis.settings.load_profile("unhurried")

LIMIT_SECONDS = 120.0
"""How long a test waits for something that must happen. A busy machine may need a good part of it;
what takes longer is taken for a failure."""

# No test ends the server, so that nothing of it need ever be on a disk.
FORGETFUL = " ".join(
    f"-c {setting}"
    for setting in (
        "max_connections=60", "shared_buffers=32MB", "fsync=off", "synchronous_commit=off",
        "full_page_writes=off", "wal_level=minimal", "max_wal_senders=0", "autovacuum=off",
    )
)  # fmt: skip
MEMORY = Path("/dev/shm")
ROOM_IN_MEMORY = 2 << 30

KINDS = [
    "sqlite",
    pytest.param("sqlite-of-python", marks=pytest.mark.nightly),
    pytest.param("postgresql", marks=pytest.mark.postgres),
]

REQUIRED = "DGX_MUSIC_TEST_REQUIRE"
ONE_DATABASE = "DGX_MUSIC_TEST_ONE_DATABASE"
SERVER_USER = "postgres"
SERVER_PACKAGES = Path("/usr/lib/postgresql")
NUMBERS = itertools.count()


# Programs under test would ignore them too, as in the background of a script.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep one database of each test that runs on both, where `just test` asks for that.

    The seed of the run draws which, as it draws the examples of a property.
    """
    if os.environ.get(ONE_DATABASE) != "1" or REQUIRED in os.environ:
        return
    if not SERVER_PACKAGES.exists():
        # Then the tests may have no server.
        return
    kept, dropped = draw_databases(items, str(config.getoption("randomly_seed", "0")))
    config.hook.pytest_deselected(items=dropped)
    items[:] = kept


def draw_databases(
    items: list[pytest.Item], seed: str
) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """Return the tests to run, and those that run on the other database."""
    names = {item.nodeid for item in items}
    kept: list[pytest.Item] = []
    dropped: list[pytest.Item] = []
    for item in items:
        on_sqlite = item.nodeid.replace("postgresql", "sqlite")
        on_postgres = on_sqlite.replace("sqlite", "postgresql")
        if on_sqlite == on_postgres or not {on_sqlite, on_postgres} <= names:
            kept.append(item)
            continue
        drawn = on_postgres if zlib.crc32(f"{seed} {on_sqlite}".encode()) & 1 else on_sqlite
        (kept if item.nodeid == drawn else dropped).append(item)
    return kept, dropped


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_xdist_auto_num_workers() -> int:
    """Tests wait for other processes a third of the time: one more than there are cores."""
    return min(os.cpu_count() or 1, 7) + 1


def wait_until(condition: Callable[[], object], describe: Callable[[], str] = str) -> None:
    """Return when the condition holds.

    Args:
        condition: asked again and again.
        describe: says more where it did not hold within `LIMIT_SECONDS`.

    Raises:
        AssertionError: it did not.
    """
    end = time.monotonic() + LIMIT_SECONDS
    pause = 0.01
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {LIMIT_SECONDS:g} s\n{describe()}")
        time.sleep(pause)
        # What is asked may be a database, and what it waits for wants the processor too.
        pause = min(pause * 1.3, 0.1)


@contextmanager
def disk_of(folder: Path, mebibytes: int) -> Iterator[Path]:
    """Make a folder on a small disk of its own; the test is skipped without root."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def as_server_user(command: list[str]) -> list[str]:
    """Return the command as the user of the server, since PostgreSQL refuses to run as root."""
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


def install_packages(*packages: str) -> None:
    """Install packages of Debian, if that can be done here; one test process after the other."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    # A second apt-get would fail, or search the half-updated lists of the first.
    with (Path(tempfile.gettempdir()) / "dgx-music-tests-apt.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in (
            ["apt-get", "update", "-qq"],
            ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages],
        ):
            subprocess.run(command, env=quiet, capture_output=True, check=False, timeout=600)


def install_server() -> None:
    """Install Debian's package, which would also start a cluster if it were not told otherwise."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    settings = Path("/etc/postgresql-common")
    settings.mkdir(parents=True, exist_ok=True)
    if not (settings / "createcluster.conf").exists():
        (settings / "createcluster.conf").write_text("create_main_cluster = false\n")
    install_packages("postgresql")


@dataclass(frozen=True)
class Server:
    """A PostgreSQL server that listens on a socket in its own folder only."""

    programs: Path
    folder: Path
    used: list[str] = field(default_factory=list)
    """Names of databases whose tests are over, with all their processes and threads."""

    def run(self, program: str, *arguments: str) -> None:
        command = as_server_user([str(self.programs / program), *arguments])
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder, timeout=120)

    def start(self) -> None:
        data = str(self.folder / "data")
        form = ("-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
        self.run("initdb", "-D", data, "-U", "music", "-A", "trust", *form)
        options = f"-k {self.folder} -c listen_addresses= {FORGETFUL}"
        log = str(self.folder / "log")
        self.run("pg_ctl", "-D", data, "-l", log, "-o", options, "-w", "start")

    def stop(self) -> None:
        self.run("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "-w", "stop")

    def url(self, database: str) -> str:
        return f"postgresql://music@/{database}?host={self.folder}"

    def new_database(self, template: str = "template1") -> str:
        """Create a database with the tables of the template; drop those of finished tests."""
        name = f"music_{next(NUMBERS)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            while self.used:
                connection.execute(f"DROP DATABASE {self.used.pop()} WITH (FORCE)")
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        return self.url(name)


def memory() -> Path | None:
    """Return a folder whose files are kept in memory, or None without one that has enough space."""
    if not MEMORY.is_dir() or shutil.disk_usage(MEMORY).free < ROOM_IN_MEMORY:
        return None
    return MEMORY


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
    folder = Path(tempfile.mkdtemp(prefix="music-pg-", dir=memory()))
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
    """An S3 server in a process of its own, which loses its objects when it ends."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
        )
        wait_until(lambda: self._answers() or self.process.poll() is not None)
        assert self.process.poll() is None, "moto_server did not start"

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def new_bucket(self) -> str:
        name = f"music-{next(NUMBERS)}"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT_SECONDS)
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
    """The URL of an empty bucket; its endpoint and credentials are in the environment."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{bucket_server.port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    return bucket_server.new_bucket()


def make_tables(url: str, *, queue: bool) -> None:
    storage.init_db(url)
    if queue:
        QueueManager().prepare()
    storage.close_db()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Path]:
    """Return a file with our tables and, on request, those of the queue; each is made once."""
    folder = tmp_path_factory.mktemp("templates")

    def template(queue: bool) -> Path:
        # Each library makes the search index that it can.
        file = folder / f"{sqlite_driver.load_library().__name__}-{queue}.db"
        if not file.exists():
            make_tables(f"sqlite:///{file}", queue=queue)
        return file

    return template


@pytest.fixture(scope="session")
def postgres_template(postgres_server: Server) -> Callable[[bool], str]:
    """As `sqlite_template`, but returns the name of a database."""
    made: dict[bool, str] = {}

    def template(queue: bool) -> str:
        if queue not in made:
            url = postgres_server.new_database()
            make_tables(url, queue=queue)
            made[queue] = name_in(url)
        return made[queue]

    return template


def name_in(postgres_url: str) -> str:
    return str(psycopg.conninfo.conninfo_to_dict(postgres_url)["dbname"])


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'data' / 'generations.db'}"


@pytest.fixture
def sqlite_url_with_tables(sqlite_url: str, sqlite_template: Callable[[bool], Path]) -> str:
    """A database with our tables and the queue's."""
    copy_template(sqlite_template(True), sqlite_url)
    return sqlite_url


def copy_template(template: Path, sqlite_url: str) -> None:
    file = Path(sqlite_url.removeprefix("sqlite:///"))
    file.parent.mkdir()
    shutil.copy(template, file)


@pytest.fixture
def new_postgres(postgres_server: Server) -> Iterator[Callable[..., str]]:
    made: list[str] = []

    def new(template: str = "template1") -> str:
        made.append(postgres_server.new_database(template))
        return made[-1]

    yield new
    postgres_server.used.extend(map(name_in, made))


@pytest.fixture
def postgres_url(new_postgres: Callable[..., str]) -> str:
    return new_postgres()


@pytest.fixture
def postgres_url_with_tables(
    new_postgres: Callable[..., str], postgres_template: Callable[[bool], str]
) -> str:
    """A database with our tables and the queue's."""
    return new_postgres(postgres_template(True))


@pytest.fixture
def standard_library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Without the bundled SQLite, as where its package is not installed."""
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, sqlite_driver.BUNDLED, None)
        sqlite_driver.load_library.cache_clear()
        yield
        storage.close_db()
    sqlite_driver.load_library.cache_clear()


@pytest.fixture(params=KINDS)
def database_kind(request: pytest.FixtureRequest) -> str:
    """Each kind of database, SQLite also with the library that Python is linked with."""
    if request.param == "sqlite-of-python":
        request.getfixturevalue("standard_library")
    return "postgres" if request.param == "postgresql" else "sqlite"


@pytest.fixture
def database_url(request: pytest.FixtureRequest, database_kind: str) -> str:
    """An empty database of each kind."""
    url: str = request.getfixturevalue(f"{database_kind}_url")
    return url


@pytest.fixture(autouse=True)
def _empty_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Give each test a home folder of its own, never the checkout, and close its database."""
    monkeypatch.setenv("DGX_MUSIC_HOME", str(tmp_path))
    monkeypatch.delenv("DATABASE_URL", raising=False)
    yield
    storage.close_db()


@pytest.fixture
def database(request: pytest.FixtureRequest, database_kind: str) -> Database:
    """An open database of each kind, with our tables."""
    opened: Database = request.getfixturevalue(f"{database_kind}_database")
    return opened


@pytest.fixture
def sqlite_database(sqlite_url: str, sqlite_template: Callable[[bool], Path]) -> Database:
    copy_template(sqlite_template(False), sqlite_url)
    storage.init_db(sqlite_url)
    return get_database()


@pytest.fixture
def postgres_database(
    new_postgres: Callable[..., str], postgres_template: Callable[[bool], str]
) -> Database:
    storage.init_db(new_postgres(postgres_template(False)))
    return get_database()


@pytest.fixture
def bare_database(database_url: str) -> Iterator[Database]:
    """An open database of each kind, without tables."""
    opened = Database(resolve_url(database_url))
    yield opened
    opened.close()
