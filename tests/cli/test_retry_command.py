"""`dgx-music retry`: failed jobs are made again."""

import json
import signal

import pytest

from services.errors import EngineError
from services.generation.composer.engine import ComposerEngine


@pytest.fixture
def failed(home):
    """Add a failed job of the composer with a seed; return its id."""

    def add(prompt="house at 120 BPM", seed=7, status="failed"):
        return home.add_job(prompt, status=status, seed=seed)

    return add


def test_a_failed_job_is_made_with_its_seed(home, failed):
    old = failed()
    made = home.call("retry", old[:8], "--json")
    assert made.returncode == 0, made.stderr
    (job,) = json.loads(made.stdout)
    assert (job["status"], job["metadata"]["seed"]) == ("completed", 7)
    assert job["metadata"]["parent"] == old
    assert job["prompt"] == "house at 120 BPM"
    assert (home.path / job["file"]).exists()


def test_all_failed_jobs_are_made_once(home, failed):
    old = [failed(), failed("trap beat", 8)]
    failed(status="cancelled")
    made = home.call("retry", "--failed", "--quiet")
    assert (made.returncode, made.stderr) == (0, "")
    assert len(made.stdout.splitlines()) == 2
    shown = json.loads(home.call("status", old[0], "--json").stdout)
    assert shown["status"] == "failed"
    assert shown["metadata"]["sent_again_as"]
    again = home.call("retry", "--failed")
    assert (again.returncode, again.stdout) == (0, "")
    assert "No job is left that failed." in again.stderr


def test_one_that_fails_again_does_not_stop_the_others(home, failed, monkeypatch):
    first, second = failed(), failed("trap beat", 8)
    render = ComposerEngine.render

    def fail_house(self, params, *others):
        if "house" in params.prompt:
            raise EngineError("Out of notes.")
        return render(self, params, *others)

    monkeypatch.setattr(ComposerEngine, "render", fail_house)
    made = home.call("retry", first, second)
    assert made.returncode == EngineError.exit_code
    assert f"error: {first} failed again: Out of notes." in made.stderr
    assert len(made.stdout.splitlines()) == 1
    shown = json.loads(home.call("history", "--json").stdout)["generations"]
    statuses = {(job["status"], job["metadata"].get("parent")) for job in shown}
    assert {("completed", second), ("failed", first)} <= statuses


@pytest.mark.parametrize("arguments", [(), ("--failed", "abc")])
def test_jobs_are_named_or_all_failed_ones_are_meant(home, arguments):
    refused = home.call("retry", *arguments)
    assert refused.returncode == 2
    assert "Name the jobs to make again, or give --failed." in refused.stderr


def test_a_completed_job_is_refused_before_any_is_made(home, failed):
    good, bad = home.add_job("done"), failed()
    refused = home.call("retry", bad, good)
    assert refused.returncode == 2
    assert "is completed" in refused.stderr
    assert home.rows() == [("completed",), ("failed",)]


def test_one_whose_model_is_gone_does_not_stop_the_others(home, failed):
    gone = home.add_job("house", status="failed", model="no-such-model", seed=1)
    good = failed()
    made = home.call("retry", "--failed", "--quiet")
    assert made.returncode == 4
    assert f"error: {gone} cannot be made again: There is no model" in made.stderr
    assert len(made.stdout.splitlines()) == 1
    assert json.loads(home.call("status", good, "--json").stdout)["metadata"]["sent_again_as"]


def test_ctrl_c_cancels_the_rest_and_leaves_it_to_be_sent_again(home, failed, monkeypatch):
    first, second = failed(), failed("trap beat", 8)
    render = ComposerEngine.render

    def interrupt(self, params, *others):
        signal.raise_signal(signal.SIGINT)
        return render(self, params, *others)

    monkeypatch.setattr(ComposerEngine, "render", interrupt)
    stopped = home.call("retry", "--failed")
    assert stopped.returncode == 130, stopped.stderr
    monkeypatch.undo()
    made = home.call("retry", "--failed", "--quiet", "--json")
    assert made.returncode == 0, made.stderr
    parents = [job["metadata"]["parent"] for job in json.loads(made.stdout)]
    assert parents == [first, second]
