"""`dgx-music worker` and `generate` as processes on one database."""

import json
import signal
import subprocess

import numpy as np
import pytest
import soundfile as sf

from tests.conftest import LIMIT_SECONDS, wait_until

pytestmark = pytest.mark.integration


@pytest.fixture
def worker(home):
    """A worker in the folder of `home`, ready; its lines are in worker.log."""
    assert home.call("db", "init").returncode == 0
    log = home.path / "worker.log"
    with log.open("w") as lines:
        process = subprocess.Popen(
            home.command("worker", "--concurrency", "2"),
            cwd=home.path,
            env=home.full_environment(),
            stderr=lines,
        )
    wait_until(lambda: "ready worker" in log.read_text() or process.poll() is not None)
    yield process
    process.kill()
    process.wait()


def test_generate_hands_its_job_to_a_worker(home, worker):
    made = home.run("generate", "house at 120 BPM", "--duration", "2", "--json", "--seed", "7")
    assert made.returncode == 0, made.stderr
    job = json.loads(made.stdout)
    assert sf.info(home.path / job["file"]).duration == 2.0
    assert job["metadata"]["bpm"] == 120.0
    log = (home.path / "worker.log").read_text()
    assert f"completed job={job['job_id']}" in log
    assert "house" not in log
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=LIMIT_SECONDS) == 0
    again = home.call("generate", "house at 120 BPM", "--duration", "2", "--json", "--seed", "7")
    here, there = (sf.read(home.path / json.loads(ran.stdout)["file"]) for ran in (again, made))
    assert np.array_equal(here[0], there[0])


def test_ctrl_c_cancels_the_job_that_a_worker_runs(home, worker):
    asking = subprocess.Popen(
        home.command("generate", "house", "--duration", "600"),
        cwd=home.path,
        env=home.full_environment(),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    log = home.path / "worker.log"
    wait_until(lambda: "started job" in log.read_text())
    asking.send_signal(signal.SIGINT)
    _, said = asking.communicate(timeout=LIMIT_SECONDS)
    assert asking.returncode == 130
    assert b"Cancelled." in said
    wait_until(lambda: "no longer ours" in log.read_text())
    assert home.rows() == [("cancelled",)]
