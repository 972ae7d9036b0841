"""One lock file a worker: it tells which of the workers before it are gone, also after kill -9."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from services.audio.inventory import lock_name
from services.errors import OutputError
from services.machine.process_identity import boot_id


class WorkerLock:
    """The first lock file of the folder that nobody holds, held until `release` or the end."""

    def __init__(self, output_dir: Path) -> None:
        """Take it.

        Raises:
            OutputError: the folder cannot be written.
        """
        try:
            output_dir.mkdir(parents=True, exist_ok=True)
            self.number, self._descriptor = _first_free(output_dir)
        except OSError as error:
            raise OutputError(
                f"The folder {output_dir} cannot be used: {error.strerror}. "
                "Give another output folder in DGX_MUSIC_OUTPUT_DIR."
            ) from error

    @property
    def slot(self) -> str:
        """Names the file: who has it may say that every other process that named it is gone.

        By device and number, not by path, which may be another in each container; and with the
        running system, as the numbers are another machine's too.
        """
        found = os.fstat(self._descriptor)
        return f"{boot_id()}:{found.st_dev}:{found.st_ino}"

    def release(self) -> None:
        """Let the next worker have it."""
        with suppress(OSError):
            os.close(self._descriptor)


def _first_free(folder: Path) -> tuple[int, int]:
    number = 0
    while True:
        descriptor = os.open(folder / lock_name(f"worker-{number}"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            number += 1
        else:
            return number, descriptor
