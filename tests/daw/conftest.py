"""Ardour itself, as Debian packages it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import LIMIT_SECONDS, REQUIRED, install_packages

LUA, EXPORT = "ardour7-lua", "ardour7-export"


@dataclass(frozen=True)
class Ardour:
    """Ardour without a display. Its exit codes say nothing: it may abort after its work is done."""

    home: Path

    def run(self, program: str, *arguments: str) -> str:
        """Run a tool until it ends, or for `LIMIT_SECONDS` as some hang when they should end."""
        environment = os.environ | {
            "HOME": str(self.home),
            "XDG_CONFIG_HOME": str(self.home / "config"),
            "XDG_CACHE_HOME": str(self.home / "cache"),
            # Ardour 7.3 spoils samples and crashes with its routines for AVX-512.
            "ARDOUR_FPU_FLAGS": "12",
            "LC_ALL": "C.UTF-8",
        }
        try:
            ended = subprocess.run(
                [program, *arguments],
                env=environment,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                timeout=LIMIT_SECONDS,
            )
        except subprocess.TimeoutExpired as hung:
            return (hung.stdout or b"").decode(errors="replace")
        return (ended.stdout + ended.stderr).decode(errors="replace")

    def list_contents(self, session_file: Path) -> list[list[str]]:
        """Load a session and return the rows that `ardour_list.lua` prints."""
        script = Path(__file__).with_name("ardour_list.lua")
        output = self.run(LUA, str(script), *_name(session_file))
        rows = [line.split("\t") for line in output.splitlines() if "\t" in line]
        assert rows, f"Ardour did not load {session_file}:\n{output}"
        return rows

    def export(self, session_file: Path, target: Path) -> None:
        """Play a session into a float WAV file."""
        output = self.run(EXPORT, "-b", "float", "-o", str(target), *_name(session_file))
        assert target.is_file(), f"Ardour did not export {session_file}:\n{output}"


def _name(session_file: Path) -> Sequence[str]:
    return str(session_file.parent), session_file.stem


@pytest.fixture(scope="session")
def ardour(tmp_path_factory: pytest.TempPathFactory) -> Ardour:
    if shutil.which(LUA) is None:
        install_packages("ardour")
    if shutil.which(LUA) is None or shutil.which(EXPORT) is None:
        reason = "Ardour 7 is not installed, and could not be"
        if "ardour" in os.environ.get(REQUIRED, ""):
            pytest.fail(reason)
        pytest.skip(reason)
    return Ardour(tmp_path_factory.mktemp("ardour"))
