"""The installed command, run as a person runs it: a process, a folder, an environment."""

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

PROGRAM = Path(sys.executable).parent / "dgx-music"


@dataclass
class Home:
    """A folder with nothing in it but what the command makes there."""

    path: Path
    environment: dict[str, str] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()

    def run(self, *arguments: str, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            cwd=self.path,
            env=self.full_environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def command(self, *arguments: str) -> list[str]:
        return [*self.prefix, str(PROGRAM), *arguments]

    def full_environment(self) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if name != "DATABASE_URL" and not name.startswith("DGX_MUSIC_")
        }
        ours = {"DGX_MUSIC_HOME": str(self.path), "LC_ALL": "C.UTF-8"}
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
        """The same home, where file permissions bind even the superuser."""
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
