"""Places where a test may end or freeze the process: around every commit and every rename.

`DGX_MUSIC_TEST_FAILPOINT=<name>` ends it at the first pass, `<name>:3` at the third, and
`<name>:freeze` stops it there until it is told to go on.
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
"""In the order in which a job passes them."""

MOVE_NAMES = ("move-check", "move-copy", "move-verify", "move-commit")
"""In the order in which `dgx-music db move` passes them; all but the last many times."""

_passed: Counter[str] = Counter()


def reach(name: str) -> None:
    """End the process as a power cut would, or freeze it, if a test asked for it here."""
    wanted, _, count = os.environ.get(VARIABLE, "").partition(":")
    if name != wanted:
        return
    _passed[name] += 1
    if count == "freeze":
        os.kill(os.getpid(), signal.SIGSTOP)
        # Of several threads the one that stops the process may run on for a moment.
        time.sleep(_STOPPING_SECONDS)
    elif _passed[name] == int(count or 1):
        os._exit(EXIT_CODE)
