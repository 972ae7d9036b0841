"""The lock files of workers."""

import subprocess
import sys

from services.worker.lock import WorkerLock


def test_a_released_lock_is_taken_by_the_next_process(tmp_path):
    first, second = WorkerLock(tmp_path), WorkerLock(tmp_path)
    assert (first.number, second.number) == (0, 1)
    assert first.slot != second.slot
    slot = first.slot
    first.release()
    program = (
        "import sys; from pathlib import Path;"
        "from services.worker.lock import WorkerLock;"
        "lock = WorkerLock(Path(sys.argv[1])); print(lock.number, lock.slot)"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["0", slot]
    second.release()
