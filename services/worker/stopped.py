"""Ends workers that were stopped while they held the database's only write lock."""

from __future__ import annotations

import logging
import threading

from services import storage
from services.machine.process_identity import ProcessIdentity

log = logging.getLogger(__name__)

LOOKS_A_LIFE = 10


class StoppedWorkers:
    """A thread that looks for workers that count as gone and were stopped (SIGSTOP, Ctrl-Z).

    SQLite has no server that would end their transaction, and everybody who writes waits for it.
    Told to go on, such a worker would find its jobs taken over and leave by itself.
    """

    def __init__(self, ttl: float) -> None:
        """Begin to look; even the start of a worker may have to wait for a stopped one.

        Args:
            ttl: seconds after which a worker without a beat counts as gone.
        """
        self._ttl = ttl
        self._ended = threading.Event()
        if storage.describe_database()["kind"] == "sqlite":
            threading.Thread(target=self._look, name="stopped", daemon=True).start()

    def end(self) -> None:
        """Look no more."""
        self._ended.set()

    def _look(self) -> None:
        while not self._ended.wait(self._ttl / LOOKS_A_LIFE):
            try:
                with storage.get_session(read_only=True) as session:
                    states = storage.list_workers(session)
            except storage.StorageError as error:
                log.warning("the database does not answer: %s", error)
                continue
            for state in states:
                process = ProcessIdentity.parse(state.process)
                if state.age > self._ttl and process is not None and process.kill_if_stopped():
                    log.warning("killed worker=%s: stopped, and others wait for it", state.id)
