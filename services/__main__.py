"""The start of `dgx-music`, also as `python -m services`: quick to import, unlike the command."""

from __future__ import annotations

import os
import signal

from services.errors import CancelledError


def main() -> None:
    """Run the command line; a Ctrl-C while it is imported ends the process without a traceback."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: os._exit(CancelledError.exit_code))
    from services.cli import main as run

    run()


if __name__ == "__main__":
    main()
