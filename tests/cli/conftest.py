"""The command in a home folder of its own: in this process, or as a process."""

import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from typer.testing import CliRunner

from services import cli, storage
from tests.conftest import LIMIT_SECONDS
from tests.programs import Program

ABSENT = Path(__file__).parent / "absent"
"""Hides packages of the development set-up from processes, which are to run as a user's do."""

PROGRAM = Path(sys.executable).parent / "dgx-music"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
Result = subprocess.CompletedProcess[str]


@dataclass
class Home:
    """An empty folder: the home folder of the command, and the folder it is called from."""

    path: Path
    environment: dict[str, str] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()

    def call(self, *arguments: str, answer: str | None = None, width: int | None = None) -> Result:
        """Run the command in this process, which takes milliseconds.

        Args:
            arguments: of the command.
            answer: is typed on a terminal; None: stdin is no terminal.
            width: columns of the terminal on stdout, whose colours are left out; None: a pipe.
        """
        with (
            pytest.MonkeyPatch.context() as patch,
            CliRunner().isolation(input=answer) as (stdout, stderr, _),
        ):
            patch.chdir(self.path)
            patch.setattr(sys, "argv", ["dgx-music", *arguments])
            for name, value in {"DGX_MUSIC_HOME": str(self.path), **self.environment}.items():
                patch.setenv(name, value)
            if answer is not None:
                patch.setattr(sys.stdin, "isatty", lambda: True)
            if width is not None:
                patch.setattr(sys.stdout, "isatty", lambda: True)
                patch.setenv("COLUMNS", str(width))
                # rich takes a dumb terminal to be 80 columns wide.
                patch.setenv("TERM", "xterm")
            try:
                cli._run()
                code = 0
            except SystemExit as end:
                code = int(end.code or 0)
            finally:
                storage.close_db()
            sys.stdout.flush()
            sys.stderr.flush()
            texts = (COLOUR.sub("", stream.getvalue().decode()) for stream in (stdout, stderr))
            return subprocess.CompletedProcess(arguments, code, *texts)

    def add_job(
        self,
        prompt: str,
        *,
        status: str = "completed",
        model: str = "composer",
        job_id: str | None = None,
        has_file: bool = True,
        **metadata: object,
    ) -> str:
        """Write the row of a job, and its file; returns its id."""
        storage.init_db(f"sqlite:///{self.database}")
        with storage.get_session() as session:
            row = storage.create_generation(
                session, prompt, model, 2.0, 48_000, 2, "", metadata=metadata, generation_id=job_id
            )
            row.file_path = f"2026/11/21/{row.id}.wav"
            if status == "completed":
                storage.complete_generation(session, row.id, 1.0, 5)
            elif status != "pending":
                reason = "The engine failed." if status == "failed" else None
                storage.update_generation_status(session, row.id, status, reason)
        storage.close_db()
        if status == "completed" and has_file:
            file = self.path / "data" / "outputs" / row.file_path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"music")
        return row.id

    def run(self, *arguments: str) -> Result:
        """Run the installed command in a process of its own, and wait for its end."""
        if self.prefix:
            return subprocess.run(
                self.command(*arguments),
                cwd=self.path,
                env=self.full_environment(),
                capture_output=True,
                text=True,
                timeout=LIMIT_SECONDS,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        with tempfile.TemporaryDirectory() as folder:
            stdout, stderr = Path(folder, "stdout"), Path(folder, "stderr")
            code = self.start(*arguments, stdout=stdout, stderr=stderr).wait()
            return subprocess.CompletedProcess(
                arguments, code, stdout.read_text(), stderr.read_text()
            )

    def start(self, *arguments: str, stdout: Path, stderr: Path) -> Program:
        """Start the installed command in a process that has imported most of it already.

        Args:
            arguments: of the command.
            stdout: a file or a device.
            stderr: a file or a device.
        """
        assert not self.prefix
        return Program(
            PROGRAM, *arguments, env=self.full_environment(), cwd=self.path, log=stdout,
            errors=stderr,
        )  # fmt: skip

    def command(self, *arguments: str) -> list[str]:
        return [*self.prefix, str(PROGRAM), *arguments]

    def full_environment(self) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if name != "DATABASE_URL" and not name.startswith("DGX_MUSIC_")
        }
        ours = {
            "DGX_MUSIC_HOME": str(self.path),
            "LC_ALL": "C.UTF-8",
            "PYTHONPATH": str(ABSENT),
        }
        return kept | ours | self.environment

    @property
    def database(self) -> Path:
        return self.path / "data" / "generations.db"

    def rows(self, columns: str = "status") -> list[tuple[object, ...]]:
        if not self.database.exists():
            return []
        with closing(sqlite3.connect(self.database)) as connection:
            return connection.execute(f"SELECT {columns} FROM generations").fetchall()

    def files(self) -> list[Path]:
        """Every file under data/outputs, hidden and temporary ones too."""
        return [path for path in (self.path / "data" / "outputs").rglob("*") if path.is_file()]

    def without_root_powers(self) -> "Home":
        """The same home, where file permissions bind even the superuser; only for processes."""
        if os.geteuid() != 0:
            return self
        if shutil.which("setpriv") is None:
            pytest.skip("root ignores file permissions and setpriv is not installed")
        powers = "-dac_override,-dac_read_search,-fowner"
        prefix = ("setpriv", f"--bounding-set={powers}", f"--inh-caps={powers}")
        return Home(self.path, self.environment, prefix)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)
