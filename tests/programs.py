"""Programs under test in processes of their own, forked from one that has imported what they need.

A worker is imported for a second and a half, and the tests start some hundreds of them. How the
installed command starts is tested with the command itself (tests/cli).
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tests.conftest import LIMIT_SECONDS, NUMBERS

PRELOADED = (
    "dbos._client", "dbos._sys_db", "numpy", "obstore", "psycopg", "pytest", "services.api.server",
    "services.worker.runner", "services.worker.worker", "sqlalchemy.dialects.postgresql.psycopg",
    "sqlcipher3", "tests.programs", "uvicorn",
)  # fmt: skip
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(list(PRELOADED))


class Program:
    """A running script; its methods are those of `subprocess.Popen`."""

    def __init__(
        self, script: Path, *arguments: str, env: Mapping[str, str], cwd: Path, log: Path
    ) -> None:
        """Start the script with an environment of its own; all that it says goes to the log."""
        log.touch()
        self._process = CONTEXT.Process(
            target=_run, args=(script, arguments, dict(env), cwd, log), daemon=True
        )
        self._polling = threading.Lock()
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        # Read twice at once, the code would be lost to one of the two.
        with self._polling:
            return self._process.exitcode

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def wait(self, timeout: float = LIMIT_SECONDS) -> int:
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout)
        return code

    def send_signal(self, number: int) -> None:
        # The server of the forks may have collected it since it was last asked.
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start_python(program: str, *arguments: str, folder: Path) -> Program:
    """Start a program given as text; its log is in the folder, `log`."""
    script = folder / f"program-{next(NUMBERS)}.py"
    script.write_text(program, encoding="utf-8")
    return Program(script, *arguments, env=os.environ, cwd=folder, log=folder / "log")


def _run(
    script: Path, arguments: tuple[str, ...], env: dict[str, str], cwd: Path, log: Path
) -> None:
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(written, 1)
    os.dup2(written, 2)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = [str(script), *arguments]
    sys.path[:0] = [str(script.parent), *env.get("PYTHONPATH", "").split(os.pathsep)]
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        # Such a process leaves this out.
        atexit._run_exitfuncs()
