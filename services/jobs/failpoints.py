"""Points where a test can end or freeze the process: around every commit and every rename.

`DGX_MUSIC_TEST_FAILPOINT=<name>` ends it at the first pass, `<name>:3` at the third, and
`<name>:freeze` stops it there until SIGCONT.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter

VARIABLE = "DGX_MUSIC_TEST_FAILPOINT"
EXIT_CODE = 9
_STOPPING_SECONDS = 0.3

NAMES = (
    "submit-before-commit",
    "submit-after-commit",
    "job-claimed",
    "attempt-before-commit",
    "attempt-after-commit",
    "take-made",
    "upload-done",
    "publish-before-rename",
    "publish-after-rename",
    "publish-before-commit",
    "publish-after-commit",
    "retry-before-commit",
    "retry-after-commit",
    "cancel-after-commit",
)
"""The points in the order in which a job passes them."""

_passed: Counter[str] = Counter()


def reach(name: str) -> None:
    """End the process without clean-up, or freeze it, if the environment names this point."""
    wanted, _, count = os.environ.get(VARIABLE, "").partition(":")
    if name != wanted:
        return
    _passed[name] += 1
    if count == "freeze":
        os.kill(os.getpid(), signal.SIGSTOP)
        # The thread that sends the signal may run on for a moment before it takes effect.
        time.sleep(_STOPPING_SECONDS)
    elif _passed[name] == int(count or 1):
        os._exit(EXIT_CODE)
