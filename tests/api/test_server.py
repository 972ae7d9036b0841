"""A server process from its start to its end, with a worker inside."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2 as httpx
import pytest

from services.api.server import listen, url_of
from services.api.server import serve as serve_here
from services.config import Settings
from services.errors import OutputError, SettingsError
from services.jobs.models import parse_request
from tests.worker.conftest import load_engines

if TYPE_CHECKING:
    from tests.api.conftest import Served

pytestmark = pytest.mark.integration


@contextmanager
def listening(served: Served, path: str, last: str | None = None) -> Iterator[Callable[[], Any]]:
    """Open a stream; calling what this gives reads the next event, None at the end."""
    headers = {"Last-Event-ID": last} if last else {}
    with served.client.stream("GET", path, headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()

        def next_event() -> Any:
            fields: dict[str, Any] = {}
            for line in lines:
                if not line and "event" in fields:
                    fields["data"] = json.loads(fields["data"])
                    return fields
                name, separator, value = line.partition(": ")
                if separator and name:
                    fields[name] = value
            return None

        yield next_event


def rest(next_event: Callable[[], Any]) -> list[Any]:
    return list(iter(next_event, None))


def test_a_job_is_made_and_its_events_tell_so(served: Served) -> None:
    job_id = served.ask("sleep 1")["job_id"]
    with listening(served, f"/jobs/{job_id}/events") as next_event:
        events = rest(next_event)
    assert events[0]["event"] == "snapshot"
    assert events[-1]["event"] == "done"
    assert {event["event"] for event in events[1:-1]} <= {"progress"}
    assert events[-1]["data"]["status"] == "completed"
    assert events[-1]["data"] == served.job(job_id)
    states = [(event["data"]["status"], event["data"]["progress"]) for event in events]
    assert states == sorted(states, key=lambda each: (each[0] != "pending", each[1]))


def test_a_listener_that_comes_back_misses_nothing(sqlite_served: Served) -> None:
    served = sqlite_served
    with listening(served, "/events") as next_event:
        assert next_event()["data"] == {"jobs": []}
        job_id = served.ask("sleep 0.3")["job_id"]
        first = next_event()
    served.until_status(job_id, "completed")
    with listening(served, "/events", first["id"]) as next_event:
        seen = [next_event()]
        while seen[-1]["event"] != "done":
            seen.append(next_event())
    numbers = [int(each["id"].rpartition("-")[2]) for each in [first, *seen]]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    answer = served.client.get(f"/jobs/{job_id}/events", headers={"Last-Event-ID": seen[-1]["id"]})
    assert answer.status_code == 204
    with listening(served, f"/jobs/{job_id}/events", "0000-7") as next_event:
        assert [event["event"] for event in rest(next_event)] == ["snapshot", "done"]


def test_what_others_make_and_cancel_is_told_too(served: Served) -> None:
    with listening(served, "/events") as next_event:
        next_event()
        job = served.rig.service.submit(parse_request(prompt="sleep 9", duration=1))
        while next_event()["data"]["status"] != "processing":
            pass
        served.rig.service.cancel(job.job_id)
        event = next_event()
        while event["event"] != "done":
            event = next_event()
        assert (event["data"]["job_id"], event["data"]["status"]) == (job.job_id, "cancelled")


def test_an_answer_is_held_until_the_job_is_finished(served: Served) -> None:
    answer = served.client.post(
        "/generate", json={"prompt": "sleep 0.2", "duration": 1}, headers={"Prefer": "wait=20"}
    )
    assert answer.status_code == 200
    assert answer.json()["status"] == "completed"
    assert answer.json()["file_url"].endswith(f"/files/{answer.json()['job_id']}.wav")


def test_a_running_job_is_cancelled_within_two_seconds(sqlite_served: Served) -> None:
    job_id = sqlite_served.ask("sleep 30")["job_id"]
    sqlite_served.rig.started(job_id)
    assert sqlite_served.client.delete(f"/jobs/{job_id}").json()["status"] == "cancelled"
    took = sqlite_served.rig.until(lambda: "stopped, no longer ours" in sqlite_served.rig.log)
    assert took < 2.0


@pytest.mark.parametrize("told_by", [signal.SIGTERM, signal.SIGHUP], ids=["term", "hang-up"])
def test_told_to_stop_it_finishes_what_runs_and_ends_its_streams(
    sqlite_served: Served, told_by: signal.Signals
) -> None:
    served = sqlite_served
    running = served.ask("sleep 1.5")["job_id"]
    waiting = served.ask("sleep 1.5")["job_id"]
    served.rig.started(running)
    ended: list[float] = []

    def follow() -> None:
        with listening(served, "/events") as next_event:
            ready.set()
            rest(next_event)
        ended.append(time.monotonic())

    ready = threading.Event()
    follower = threading.Thread(target=follow)
    follower.start()
    assert ready.wait(10)
    told = time.monotonic()
    served.process.send_signal(told_by)
    follower.join(10)
    assert ended[0] - told < 2.0
    refused = served.client.post("/generate", json={"prompt": "beat", "duration": 1})
    assert refused.status_code == 503
    assert served.job(running)["status"] == "processing"
    assert served.process.wait(20) == 0
    assert served.rig.get(running).status == "completed"
    assert served.rig.get(waiting).status == "pending"


def test_a_job_that_outlasts_the_drain_goes_back(
    sqlite_url: str, serve: Callable[..., Served]
) -> None:
    served = serve(sqlite_url, drain_seconds=0.5)
    job_id = served.ask("sleep 30")["job_id"]
    served.rig.started(job_id)
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(20) == 0
    job = served.rig.get(job_id)
    assert (job.status, job.retry_count) == ("pending", 0)


def test_a_second_signal_ends_it_at_once(sqlite_served: Served) -> None:
    job_id = sqlite_served.ask("sleep 30")["job_id"]
    sqlite_served.rig.started(job_id)
    sqlite_served.process.send_signal(signal.SIGTERM)
    # Two at once are one wish, as a supervisor sends it to a process and to its group.
    sqlite_served.process.send_signal(signal.SIGTERM)
    sqlite_served.rig.until(lambda: "draining" in sqlite_served.rig.log)
    assert sqlite_served.client.get("/health/live").status_code == 200
    assert sqlite_served.rig.tell_again(sqlite_served.process) == 6


def test_without_a_worker_the_jobs_go_to_others(api_url: str, serve: Callable[..., Served]) -> None:
    served = serve(api_url, worker=False)
    job_id = served.ask("sleep 0")["job_id"]
    assert served.job(job_id)["status"] == "pending"
    served.rig.worker()
    served.until_status(job_id, "completed")


def test_a_killed_server_loses_no_job(api_url: str, serve: Callable[..., Served]) -> None:
    served = serve(api_url)
    ids = [served.ask(f"sleep 0.{number}")["job_id"] for number in range(1, 6)]
    served.rig.started(ids[0])
    served.process.kill()
    served.process.wait()
    again = serve(api_url)
    for job_id in ids:
        again.until_status(job_id, "completed")
    served.rig.assert_settled(ids)


def test_a_port_in_use_is_told(sqlite_served: Served) -> None:
    url = sqlite_served.client.base_url
    with pytest.raises(SettingsError, match=r"Address already in use.*another --port"):
        listen(str(url.host), int(url.port or 0))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_any_address_of_the_machine_can_be_taken(host: str) -> None:
    with listen(host, 0) as listening:
        assert httpx.URL(url_of(listening)).port == listening.getsockname()[1]


def test_a_foreign_address_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"Cannot listen on 192\.0\.2\.1"):
        listen("192.0.2.1", 0)


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_without_a_worker_an_output_folder_that_is_none_is_told_at_the_start(
    sqlite_url: str, tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").touch()
    settings = Settings(DATABASE_URL=sqlite_url, output_dir=tmp_path / place, model_name="puppet")
    with pytest.raises(OutputError, match=r"file.* cannot be written.*DGX_MUSIC_OUTPUT_DIR"):
        serve_here(settings, load_engines().registry(), host="127.0.0.1", port=0, worker=None)
