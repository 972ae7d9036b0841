"""Compiles the C here with the machine's own compiler, at set-up (`main`) or at first use.

The library lies in the virtual environment, or in the user's cache where that cannot be written.
Its name says what it was made of. It appears whole or not at all, and ends with its own digest: a
library that was cut short would end the process that loads it.
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
"""No -march: one library runs on every processor of its family."""
TIME_LIMIT_SECONDS = 300
_SEAL = b"\nsha256:"


class BuildError(Exception):
    """There is no library; the message is one line that says why."""


def folders() -> list[Path]:
    """Where libraries are looked for and, if it can be written, put: the first one first."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "dgx-music"
    if sys.prefix == sys.base_prefix:
        return [user]
    return [Path(sys.prefix) / "var" / "cache" / "dgx-music", user]


def library_name() -> str:
    """The name of a library of this source for this platform."""
    digest = hashlib.sha256(" ".join(FLAGS).encode())
    for file in sorted(SOURCES.glob("*.[ch]")):
        digest.update(file.read_bytes())
    return f"step-{digest.hexdigest()[:16]}-{sysconfig.get_platform()}.so"


def find(places: Sequence[Path]) -> Path | None:
    """The library in the first of these folders that has it whole."""
    files = (place / library_name() for place in places)
    return next((file for file in files if _is_whole(file)), None)


def can_be_had() -> bool:
    """Whether there is a library, or a compiler to make one with."""
    try:
        return find(folders()) is not None or shutil.which(_compiler()[0]) is not None
    except BuildError:
        return False


def _compiler() -> list[str]:
    told = os.environ.get("CC", "").strip() or "cc"
    try:
        return shlex.split(told)
    except ValueError as error:
        raise BuildError(f"CC is {told!r}, which is no command: {error}") from error


def build(places: Sequence[Path]) -> Path:
    """Compile, into the first of these folders that can be written; what was there is replaced.

    Raises:
        BuildError: no compiler, one that fails, or no place for what it makes.
    """
    reason = "there is no folder to put it in"
    for place in places:
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=place, prefix=".step-") as folder:
                made = Path(folder) / "step.so"
                _compile(made)
                body = made.read_bytes()
                with made.open("ab") as file:
                    file.write(_SEAL + hashlib.sha256(body).hexdigest().encode())
                    file.flush()
                    os.fsync(file.fileno())
                return made.replace(place / library_name())
        except OSError as error:
            reason = f"{place}: {error.strerror or error}"
    raise BuildError(reason)


def _compile(made: Path) -> None:
    compiler = _compiler()
    sources = [str(file) for file in sorted(SOURCES.glob("*.c"))]
    command = [*compiler, *FLAGS, *sources, "-o", str(made), "-lm"]
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, timeout=TIME_LIMIT_SECONDS, check=False
        )
    except OSError as error:
        raise BuildError(f"no C compiler ({shlex.join(compiler)}); install gcc") from error
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{compiler[0]} took more than {TIME_LIMIT_SECONDS} s") from error
    if done.returncode != 0 or not made.exists():
        said = [line for line in done.stderr.splitlines() if "error" in line.lower()]
        last = (said or done.stderr.splitlines() or ["it said nothing"])[0]
        raise BuildError(f"{compiler[0]} failed: {last.strip()}")


def _is_whole(file: Path) -> bool:
    try:
        body, seal, digest = file.read_bytes().rpartition(_SEAL)
    except OSError:
        return False
    return bool(seal) and hashlib.sha256(body).hexdigest().encode() == digest


def main() -> None:
    """Build the library if there is none; without a compiler, say so and leave with 1."""
    places = folders()
    if find(places):
        return
    try:
        build(places)
    except BuildError as error:
        sys.exit(f"MusicGen's native step could not be built: {error}.")
