"""An outage: the machine of a worker cannot make takes, whatever the job.

A full disk, a folder that cannot be written, a bucket that does not respond, too many open files.
While it lasts the worker takes no jobs, and it looks again after a growing pause.
"""

from __future__ import annotations

import errno
import logging
import os
import tempfile
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from services.errors import OutputError
from services.library.store import FolderStore
from services.library.takes import SPARE_BYTES, Delivery
from services.machine.shortage import find_shortage
from services.machine.space import free_bytes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from services.library.store import FileStore

log = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0
"""Pauses between two looks; each is twice the one before."""

TRIED_BYTES = 1 << 20
"""Bytes that are really taken for a moment."""

FILES_NEEDED = 32
"""Files that an attempt may have open at once: those of its engine process and of the store."""


class Outage:
    """Knows whether this worker can make takes now."""

    def __init__(self, find_reason: Callable[[int], str | None]) -> None:
        """Set up without a look.

        Args:
            find_reason: looks whether a file of so many bytes can be made here; returns why not, in
                a sentence without paths.
        """
        self._find_reason = find_reason
        self._lock = threading.Lock()
        self._need = 0
        self._pause = FIRST_PAUSE_SECONDS
        self._over_at = float("-inf")
        self._ended = threading.Event()
        self.reason: str | None = None
        """Why the worker takes no jobs; None while it does."""

    def is_found(self, need: int) -> bool:
        """Look after a job has failed; if there is an outage, watch until it is over.

        Args:
            need: bytes of the file that the job was to write.
        """
        with self._lock:
            self._need = max(self._need, need)
            if self.reason is not None:
                return True
            reason = self._look()
            if reason is None:
                return False
            if time.monotonic() - self._over_at > LONGEST_PAUSE_SECONDS:
                # Else it comes and goes, and the pauses go on growing.
                self._pause = FIRST_PAUSE_SECONDS
            try:
                threading.Thread(target=self._watch, name="outage", daemon=True).start()
            except RuntimeError as error:
                # Not even a thread can be started. The job alone pauses.
                log.warning("does not wait for the end of an outage: %s", error)
                return False
            self.reason = reason
        log.warning("takes no jobs: %s", reason)
        return True

    def end(self) -> None:
        """Stop watching."""
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(self._pause):
            self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
            with self._lock:
                before, self.reason = self.reason, self._look()
                reason = self.reason
                if reason is None:
                    self._over_at = time.monotonic()
            if reason is None:
                log.info("takes jobs again")
                return
            if reason != before:
                log.warning("takes no jobs: %s", reason)

    def _look(self) -> str | None:
        try:
            reason = self._find_reason(self._need)
        except Exception:
            # The edge of the threads that look: whatever it is, somebody must go on looking.
            log.exception("unexpected")
            reason = "The machine cannot be checked."
        if reason is None:
            self._need = 0
        return reason


def find_reason(delivery: Delivery, store: FileStore, need: int) -> str | None:
    """Return why no file of so many bytes can be made and stored here, or None if it can.

    It is a sentence for everybody, without paths; the log has the whole error.
    """
    try:
        store.check()
        _try_output(delivery.output_dir, need)
        _try_descriptors()
    except OSError as error:
        shortage = find_shortage(error)
        if shortage is not None:
            return str(shortage)
        return f"The output folder cannot be written: {error.strerror}."
    except OutputError as error:
        log.warning("the store cannot be used: %s", error)
        if isinstance(store, FolderStore):
            return "The output folder is not there."
        return "The bucket of the finished files does not respond."
    return None


def _try_output(folder: Path, need: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if free_bytes(folder) < need + SPARE_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    # It has no name, so that a worker that is killed leaves nothing.
    with tempfile.TemporaryFile(dir=folder) as file:
        # Not all of it: a job that is writing would meet the end of the disk.
        os.posix_fallocate(file.fileno(), 0, TRIED_BYTES)


def _try_descriptors() -> None:
    with ExitStack() as opened:
        for _ in range(FILES_NEEDED):
            opened.callback(os.close, os.open(os.devnull, os.O_RDONLY))
