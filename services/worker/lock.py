"""A lock file for each worker: it shows which earlier workers are dead, even after kill -9."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from services.audio.inventory import lock_name
from services.errors import OutputError
from services.machine.process_identity import boot_id


class WorkerLock:
    """The first free lock file of a folder, held until `release` or the end of the process."""

    def __init__(self, output_dir: Path) -> None:
        """Lock the first free file.

        Raises:
            OutputError: the folder cannot be written.
        """
        try:
            output_dir.mkdir(parents=True, exist_ok=True)
            self.number, self._descriptor = _first_free(output_dir)
        except OSError as error:
            raise OutputError(
                f"The folder {output_dir} cannot be used: {error.strerror}. "
                "Set DGX_MUSIC_OUTPUT_DIR to another one."
            ) from error

    @property
    def slot(self) -> str:
        """Identifies the file; every other process that held it is dead.

        Made of the boot id, the device and the inode: the path may differ between containers, and
        device and inode are not unique across machines.
        """
        found = os.fstat(self._descriptor)
        return f"{boot_id()}:{found.st_dev}:{found.st_ino}"

    def release(self) -> None:
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
