"""Who runs an attempt: a token that tells, on the same machine, whether its process still lives."""

from __future__ import annotations

import os
import signal
import socket
import uuid
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
_ENDED = frozenset("ZXx")
_STOPPED = "T"
_START_TIME_FIELD = 22
"""Of /proc/PID/stat, see proc(5): clock ticks after boot. A process id alone is given out again."""


def new_token() -> str:
    """A token for an attempt of this process, never given out before.

    host, boot, PID namespace, PID, start time and a random part, joined by slashes.
    """
    pid = os.getpid()
    parts = (socket.gethostname(), boot_id(), _namespace(), str(pid), _start_time(pid) or "")
    return "/".join((*parts, uuid.uuid4().hex))


def is_abandoned(token: str | None) -> bool:
    """Whether the token is of this machine and its process is certainly gone.

    False where that cannot be known from here: another host, another container, another system.
    """
    parts = (token or "").split("/")
    if len(parts) != 6 or parts[0] != socket.gethostname() or not parts[1]:
        return False
    _, boot, namespace, pid, start_time, _ = parts
    if boot != boot_id():
        return True
    return namespace == _namespace() and _start_time(int(pid)) != start_time


def kill_if_stopped(token: str) -> bool:
    """Kill the process of the token if it is of this machine and was stopped (SIGSTOP, Ctrl-Z).

    Returns:
        Whether it was.
    """
    parts = token.split("/")
    if len(parts) != 6 or parts[:3] != [socket.gethostname(), boot_id(), _namespace()]:
        return False
    pid, start_time = int(parts[3]), parts[4]
    fields = _fields(pid)
    if fields is None or _start(fields) != start_time or fields[0] != _STOPPED:
        return False
    with suppress(OSError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def boot_id() -> str:
    """Name the running system, another after every start; empty where it has none."""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _namespace() -> str:
    try:
        return str((_PROC / "self/ns/pid").stat().st_ino)
    except OSError:
        return ""


def _start_time(pid: int) -> str | None:
    fields = _fields(pid)
    # One that has ended stays in the list until its parent takes note.
    return None if fields is None or fields[0] in _ENDED else _start(fields)


def _start(fields: list[str]) -> str:
    return fields[_START_TIME_FIELD - 3]


def _fields(pid: int) -> list[str] | None:
    """What the system says of a process, from its state on; None when there is none."""
    try:
        status = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The second field is the program's name in brackets, which may hold spaces and brackets.
    return status.rpartition(")")[2].split()
