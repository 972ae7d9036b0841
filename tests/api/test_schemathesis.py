"""Schemathesis over the OpenAPI document, against a server process with keys of two clients."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services import storage
from tests.conftest import LIMIT_SECONDS, REQUIRED, wait_until

pytestmark = pytest.mark.integration

HERE = Path(__file__).parent
PROGRAMS = Path(sys.executable).parent

ALL_PHASES = "examples,coverage,fuzzing,stateful"
QUICK_PHASES = "examples,fuzzing,stateful"
"""Without the limits of each field, which take longest."""

CONFIG = """
hooks = "schemathesis_hooks"

[auth.wfc]
path = "{folder}/keys.yaml"
peers = ["alice", "bob"]

# A schema cannot say that a file must be audio.
[[operations]]
include-operation-id = "add_input"
checks.positive_data_acceptance.expected-statuses = ["2xx", "401", "422"]

# Streams do not end by themselves.
[[operations]]
include-operation-id = ["job_events", "all_events"]
enabled = false
"""

KEYS = """
auth:
  - {{name: alice, fixedHeaders: [{{name: Authorization, value: Bearer {alice}}}]}}
  - {{name: bob, fixedHeaders: [{{name: Authorization, value: Bearer {bob}}}]}}
"""


@pytest.fixture
def address(tmp_path: Path, sqlite_url: str) -> Iterator[str]:
    """A server with the engines of the release and no worker; its jobs wait."""
    storage.init_db(sqlite_url)
    with storage.get_session() as session:
        keys = {name: storage.create_api_key(session, name)[1] for name in ("alice", "bob")}
    storage.close_db()
    (tmp_path / "keys.yaml").write_text(KEYS.format(**keys))
    (tmp_path / "schemathesis.toml").write_text(CONFIG.format(folder=tmp_path))
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [PROGRAMS / "dgx-music", "serve", "--no-worker", "--port", "0"],
            env={
                "DATABASE_URL": sqlite_url,
                "DGX_MUSIC_HOME": str(tmp_path),
                "DGX_MUSIC_RATE_LIMIT_ENABLED": "false",
                "DGX_MUSIC_QUEUE_LIMIT": "1000000",
                "PATH": "/usr/bin:/bin",
            },
            cwd=tmp_path,
            stderr=file,
        )
    try:
        wait_until(lambda: "listening url=" in log.read_text() or process.poll() is not None)
        found = re.search(r"listening url=([^\s\"]+)", log.read_text())
        assert found, log.read_text()
        yield found[1]
    finally:
        process.kill()
        process.wait()


def run(address: str, folder: Path, examples: int, phases: str) -> None:
    ran = subprocess.run(
        [
            PROGRAMS / "st",
            "--config-file", folder / "schemathesis.toml",
            "run", f"{address}/api/v1/openapi.json",
            "--phases", phases,
            "--checks", "all",
            # DELETE cancels a job and keeps its record.
            "--exclude-checks", "use_after_free",
            "--max-examples", str(examples),
            "--continue-on-failure",
            "--request-timeout", str(LIMIT_SECONDS),
            "--seed", "1",
        ],
        env={"PYTHONPATH": str(HERE), "PATH": "/usr/bin:/bin", "NO_COLOR": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]


def test_server_conforms_to_its_document(address: str, tmp_path: Path) -> None:
    run(address, tmp_path, 3, ALL_PHASES if REQUIRED in os.environ else QUICK_PHASES)


@pytest.mark.nightly
def test_server_conforms_to_its_document_at_length(address: str, tmp_path: Path) -> None:
    run(address, tmp_path, 300, ALL_PHASES)
