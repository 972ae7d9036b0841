"""`dgx-music worker` and `generate` as processes on one database."""

import json
import signal

import numpy as np
import pytest
import soundfile as sf

from tests.conftest import wait_until

pytestmark = pytest.mark.integration


@pytest.fixture
def worker(home):
    """A worker in the folder of `home`, ready; its lines are in worker.log."""
    assert home.call("db", "init").returncode == 0
    log = home.path / "worker.log"
    process = home.start("worker", "--concurrency", "2", stdout=log, stderr=log)
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
    assert worker.wait() == 0
    again = home.call("generate", "house at 120 BPM", "--duration", "2", "--json", "--seed", "7")
    here, there = (sf.read(home.path / json.loads(ran.stdout)["file"]) for ran in (again, made))
    assert np.array_equal(here[0], there[0])


def test_ctrl_c_cancels_the_job_that_a_worker_runs(home, worker):
    said = home.path / "said"
    asking = home.start("generate", "house", "--duration", "600", stdout=said, stderr=said)
    log = home.path / "worker.log"
    wait_until(lambda: "started job" in log.read_text())
    asking.send_signal(signal.SIGINT)
    assert asking.wait() == 130
    assert "Cancelled." in said.read_text()
    wait_until(lambda: "no longer ours" in log.read_text())
    assert home.rows() == [("cancelled",)]
