"""Compiles the C files here with the machine's compiler, at set-up (`main`) or at first use.

The library is stored in the virtual environment, or in the user's cache if that is read-only. Its
name contains a digest of sources and flags. It is written atomically and ends with a digest of its
own content, because loading a truncated library would crash the process.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

SOURCES = Path(__file__).parent
FLAGS = (
    *("-std=gnu11", "-O3", "-fno-math-errno", "-Wall", "-Wextra"),
    *("-shared", "-fPIC", "-fvisibility=hidden", "-pthread"),
)
"""No -march: the library runs on every processor of its family."""
TIME_LIMIT_SECONDS = 300
_SEAL = b"\nsha256:"


class BuildError(Exception):
    """The library cannot be built; the message is one line with the reason."""


def library_folders() -> list[Path]:
    """Return the folders in which libraries are found and stored, the preferred one first."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "dgx-music"
    if sys.prefix == sys.base_prefix:
        return [user]
    return [Path(sys.prefix) / "var" / "cache" / "dgx-music", user]


def library_name() -> str:
    digest = hashlib.sha256(" ".join(FLAGS).encode())
    for file in sorted(SOURCES.glob("*.[ch]")):
        digest.update(file.read_bytes())
    return f"step-{digest.hexdigest()[:16]}-{sysconfig.get_platform()}.so"


def find_library(folders: Sequence[Path]) -> Path | None:
    """Return the library in the first folder that has an undamaged one."""
    files = (folder / library_name() for folder in folders)
    return next((file for file in files if _is_undamaged(file)), None)


def is_available() -> bool:
    """Whether there is a library, or a compiler to build one."""
    try:
        has_library = find_library(library_folders()) is not None
        return has_library or shutil.which(_compiler()[0]) is not None
    except BuildError:
        return False


def _compiler() -> list[str]:
    command = os.environ.get("CC", "").strip() or "cc"
    try:
        return shlex.split(command)
    except ValueError as error:
        raise BuildError(f"CC is {command!r}, which is not a command: {error}") from error


def build(folders: Sequence[Path]) -> Path:
    """Compile the library into the first writable folder, replace an older one, and return it.

    Raises:
        BuildError: there is no compiler, it fails, or no folder is writable.
    """
    reason = "there is no folder for it"
    for folder in folders:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix=".step-") as staging:
                draft = Path(staging) / "step.so"
                _compile(draft)
                body = draft.read_bytes()
                with draft.open("ab") as file:
                    file.write(_SEAL + hashlib.sha256(body).hexdigest().encode())
                    file.flush()
                    os.fsync(file.fileno())
                return draft.replace(folder / library_name())
        except OSError as error:
            reason = f"{folder}: {error.strerror or error}"
    raise BuildError(reason)


def _compile(target: Path) -> None:
    compiler = _compiler()
    sources = [str(file) for file in sorted(SOURCES.glob("*.c"))]
    command = [*compiler, *FLAGS, *sources, "-o", str(target), "-lm"]
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, timeout=TIME_LIMIT_SECONDS, check=False
        )
    except OSError as error:
        raise BuildError(f"no C compiler ({shlex.join(compiler)}); install gcc") from error
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{compiler[0]} took more than {TIME_LIMIT_SECONDS} s") from error
    if done.returncode != 0 or not target.exists():
        lines = done.stderr.splitlines()
        errors = [line for line in lines if "error" in line.lower()]
        first = (errors or lines or ["no message"])[0]
        raise BuildError(f"{compiler[0]} failed: {first.strip()}")


def _is_undamaged(file: Path) -> bool:
    try:
        body, seal, digest = file.read_bytes().rpartition(_SEAL)
    except OSError:
        return False
    return bool(seal) and hashlib.sha256(body).hexdigest().encode() == digest


def main() -> None:
    """Build the library if there is none; exit with 1 and a message if that fails."""
    folders = library_folders()
    if find_library(folders):
        return
    try:
        build(folders)
    except BuildError as error:
        sys.exit(f"MusicGen's native step could not be built: {error}.")
