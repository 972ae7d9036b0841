"""Kills workers that were stopped (SIGSTOP) while they held SQLite's only write lock."""

from __future__ import annotations

import logging
import threading

from services import storage
from services.machine.process_identity import ProcessIdentity

log = logging.getLogger(__name__)

CHECKS_PER_TTL = 10


class StoppedWorkerKiller:
    """A thread that kills workers that count as dead and are stopped (SIGSTOP, Ctrl-Z).

    SQLite has no server that would end their transaction, and all writers wait for it. A stopped
    worker loses nothing by it: if it resumed, it would find its jobs taken over and end.
    """

    def __init__(self, ttl: float) -> None:
        """Start the thread; even the start of a worker may have to wait for a stopped one.

        Args:
            ttl: seconds after which a worker without a heartbeat counts as dead.
        """
        self._ttl = ttl
        self._ended = threading.Event()
        if storage.describe_database()["kind"] == "sqlite":
            threading.Thread(target=self._watch, name="stopped", daemon=True).start()

    def end(self) -> None:
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(self._ttl / CHECKS_PER_TTL):
            try:
                with storage.get_session(read_only=True) as session:
                    states = storage.list_workers(session)
            except storage.StorageError as error:
                log.warning("the database does not answer: %s", error)
                continue
            for state in states:
                process = ProcessIdentity.parse(state.process)
                if state.age > self._ttl and process is not None and process.kill_if_stopped():
                    log.warning("killed worker=%s: it was stopped and may block others", state.id)
