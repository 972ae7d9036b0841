"""The limit on open files, and the connections under it."""

import resource
import subprocess
import sys

import pytest

from services.machine import open_files
from services.machine.open_files import count_allowed_connections
from tests.conftest import LIMIT_SECONDS

RAISE = """
import resource
from services.machine.open_files import raise_open_files_limit
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, min(hard, 2000)))
raise_open_files_limit()
raise_open_files_limit()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_a_process_may_open_as_many_files_as_its_hard_limit():
    ran = subprocess.run(
        [sys.executable, "-c", RAISE],
        capture_output=True, text=True, timeout=LIMIT_SECONDS, check=True,
    )  # fmt: skip
    soft, hard = ran.stdout.split()
    assert soft == hard != "256"


@pytest.mark.parametrize(
    ("soft", "allowed"),
    [(1024, 384), (300, 75), (2, 1), (1 << 20, 4096), (resource.RLIM_INFINITY, 4096)],
)
def test_open_files_are_kept_aside_from_connections(monkeypatch, soft, allowed):
    monkeypatch.setattr(open_files.resource, "getrlimit", lambda _kind: (soft, soft))
    assert count_allowed_connections() == allowed
