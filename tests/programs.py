"""Programs under test in processes of their own, forked from one that has imported what they need.

A worker is imported for a second and a half, as is what makes music, and the tests start some
hundreds of them. How the installed command starts is tested with the command itself (tests/cli).
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
    "anyio._backends._asyncio", "dbos._client", "dbos._sys_db_postgres", "dbos._sys_db_sqlite",
    "numpy", "obstore", "psycopg", "pytest", "services.api.server", "services.audio.analysis",
    "services.audio.decoding", "services.audio.export", "services.audio.mastering",
    "services.cli", "services.config", "services.generation.composer.compose",
    "services.generation.composer.engine", "services.generation.composer.synth.render",
    "services.generation.musicgen.catalogue", "services.jobs.making", "services.library.takes",
    "services.worker.runner", "services.worker.worker", "sqlalchemy.dialects.postgresql.psycopg",
    "sqlcipher3", "tests.programs", "typer._adapters", "uvicorn.lifespan.on",
    "uvicorn.loops.uvloop",
)  # fmt: skip
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(list(PRELOADED))


class Program:
    """A running script; its methods are those of `subprocess.Popen`."""

    def __init__(
        self,
        script: Path,
        *arguments: str,
        env: Mapping[str, str],
        cwd: Path,
        log: Path,
        errors: Path | None = None,
    ) -> None:
        """Start the script with an environment of its own.

        Args:
            script: is run as Python would run it.
            arguments: of the script.
            env: all that is in its environment.
            cwd: is its working folder.
            log: a file or a device that stdout is added to, and stderr where it has no other.
            errors: a file or a device that stderr is added to.
        """
        errors = errors or log
        for output in (log, errors):
            output.touch()
        self._process = CONTEXT.Process(
            target=_run, args=(script, arguments, dict(env), cwd, log, errors), daemon=True
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
    script: Path, arguments: tuple[str, ...], env: dict[str, str], cwd: Path, *outputs: Path
) -> None:
    for number, output in enumerate(outputs, 1):
        os.dup2(
            os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOCTTY, 0o600), number
        )
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
