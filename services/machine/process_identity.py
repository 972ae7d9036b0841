"""The identity of a process: enough to know, on the same machine, whether it has ended."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_ENDED_STATES = frozenset("ZXx")
_STOPPED_STATE = "T"
_START_TIME_FIELD = 22
"""Of /proc/PID/stat, see proc(5): clock ticks after boot. The kernel reuses process ids."""


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process of one machine since its last boot; as text, five parts joined by slashes."""

    host: str
    boot: str
    """Kernel's boot id; empty where the system has none."""
    pid_namespace: str
    pid: int
    start_time: str
    """Clock ticks after boot; empty when unknown."""

    @classmethod
    def current(cls) -> ProcessIdentity:
        pid = os.getpid()
        return cls(socket.gethostname(), boot_id(), _pid_namespace(), pid, _start_time(pid) or "")

    @classmethod
    def parse(cls, text: str | None) -> ProcessIdentity | None:
        """Read an identity back, also with the sixth part that earlier releases added.

        Returns None for any other text.
        """
        parts = (text or "").split("/")[:5]
        if len(parts) < 5 or not parts[3].isdecimal():
            return None
        host, boot, namespace, pid, start_time = parts
        return cls(host, boot, namespace, int(pid), start_time)

    def __str__(self) -> str:
        parts = (self.host, self.boot, self.pid_namespace, str(self.pid), self.start_time)
        return "/".join(parts)

    def has_ended(self) -> bool:
        """Return True only when the process has certainly ended.

        Whether a process of another host, container or operating system has ended is unknown.
        """
        if self.host != socket.gethostname() or not self.boot:
            return False
        if self.boot != boot_id():
            return True
        return self.pid_namespace == _pid_namespace() and _start_time(self.pid) != self.start_time

    def kill_if_stopped(self) -> bool:
        """Kill the process if it is on this machine and stopped (SIGSTOP, Ctrl-Z).

        Returns True when it was killed.
        """
        here = (socket.gethostname(), boot_id(), _pid_namespace())
        if (self.host, self.boot, self.pid_namespace) != here:
            return False
        fields = _stat_fields(self.pid)
        if fields is None or _start(fields) != self.start_time or fields[0] != _STOPPED_STATE:
            return False
        with suppress(OSError):
            os.kill(self.pid, signal.SIGKILL)
            return True
        return False


def has_ended(process: str | None) -> bool:
    """Return True when the text identifies a process of this machine that has certainly ended."""
    identity = ProcessIdentity.parse(process)
    return identity is not None and identity.has_ended()


def boot_id() -> str:
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    try:
        return str((_PROC / "self/ns/pid").stat().st_ino)
    except OSError:
        return ""


def _start_time(pid: int) -> str | None:
    fields = _stat_fields(pid)
    # A process that has ended stays listed until its parent collects its exit status.
    return None if fields is None or fields[0] in _ENDED_STATES else _start(fields)


def _start(fields: list[str]) -> str:
    return fields[_START_TIME_FIELD - 3]


def _stat_fields(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the state on, or None without such a process."""
    try:
        status = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The second field is the program's name in brackets, which may hold spaces and brackets.
    return status.rpartition(")")[2].split()
