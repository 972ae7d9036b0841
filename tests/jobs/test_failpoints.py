"""Failpoints end the process where a test asks for it."""

import subprocess
import sys
from pathlib import Path

from services.jobs import failpoints


def test_a_failpoint_ends_the_process_at_the_chosen_pass():
    program = (
        "from services.jobs.failpoints import reach\n"
        "for turn in range(3):\n    print(turn, flush=True)\n    reach('take-made')\n"
    )
    for wanted, printed in (("take-made:2", "0\n1\n"), ("other", "0\n1\n2\n"), ("", "0\n1\n2\n")):
        ran = subprocess.run(
            [sys.executable, "-c", program],
            env={failpoints.VARIABLE: wanted, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.stdout == printed
        assert ran.returncode == (failpoints.EXIT_CODE if printed == "0\n1\n" else 0)
