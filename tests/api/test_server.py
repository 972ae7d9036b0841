"""A server process with a worker inside, from start to exit."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2 as httpx
import pytest

from services.api.application import create_app
from services.api.server import Server, format_url, listen, make_state
from services.api.server import serve as serve_here
from services.config import Settings
from services.errors import OutputError, SettingsError
from services.jobs.models import parse_request
from tests.conftest import LIMIT_SECONDS
from tests.worker.conftest import load_engines

if TYPE_CHECKING:
    from tests.api.conftest import Served

pytestmark = pytest.mark.integration


@contextmanager
def listening(served: Served, path: str, last: str | None = None) -> Iterator[Callable[[], Any]]:
    """Open a stream; yield a function that reads the next event, or None at the end."""
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


def read_all(next_event: Callable[[], Any]) -> list[Any]:
    return list(iter(next_event, None))


def test_job_completes_and_its_events_show_it(served: Served) -> None:
    job_id = served.ask("sleep 1")["job_id"]
    with listening(served, f"/jobs/{job_id}/events") as next_event:
        events = read_all(next_event)
    assert events[0]["event"] == "snapshot"
    assert events[-1]["event"] == "done"
    assert {event["event"] for event in events[1:-1]} <= {"progress"}
    assert events[-1]["data"]["status"] == "completed"
    assert events[-1]["data"] == served.job(job_id)
    states = [(event["data"]["status"], event["data"]["progress"]) for event in events]
    assert states == sorted(states, key=lambda each: (each[0] != "pending", each[1]))


def test_reconnecting_subscriber_misses_nothing(sqlite_served: Served) -> None:
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
        assert [event["event"] for event in read_all(next_event)] == ["snapshot", "done"]


def test_events_cover_changes_by_other_processes(served: Served) -> None:
    with listening(served, "/events") as next_event:
        next_event()
        job = served.rig.service.submit(parse_request(prompt="hold", duration=1))
        while next_event()["data"]["status"] != "processing":
            pass
        served.rig.service.cancel(job.job_id)
        event = next_event()
        while event["event"] != "done":
            event = next_event()
        assert (event["data"]["job_id"], event["data"]["status"]) == (job.job_id, "cancelled")


def test_answer_is_held_until_the_job_is_finished(served: Served) -> None:
    answer = served.client.post(
        "/generate", json={"prompt": "sleep 0.2", "duration": 1}, headers={"Prefer": "wait=60"}
    )
    assert answer.status_code == 200
    assert answer.json()["status"] == "completed"
    assert answer.json()["file_url"].endswith(f"/files/{answer.json()['job_id']}.wav")


def test_running_job_is_cancelled(sqlite_served: Served) -> None:
    job_id = sqlite_served.ask("hold")["job_id"]
    sqlite_served.rig.started(job_id)
    assert sqlite_served.client.delete(f"/jobs/{job_id}").json()["status"] == "cancelled"
    sqlite_served.rig.until(lambda: "stopped, no longer ours" in sqlite_served.rig.log)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["term", "hang-up"])
def test_signal_drains_the_worker_and_ends_the_streams(
    sqlite_served: Served, number: signal.Signals
) -> None:
    served = sqlite_served
    running, waiting = (served.ask("hold")["job_id"] for _ in range(2))
    served.rig.started(running)

    def follow() -> None:
        with listening(served, "/events") as next_event:
            ready.set()
            read_all(next_event)

    ready = threading.Event()
    follower = threading.Thread(target=follow)
    follower.start()
    assert ready.wait(LIMIT_SECONDS)
    served.process.send_signal(number)
    # The job that runs would never end.
    follower.join(LIMIT_SECONDS)
    assert not follower.is_alive()
    refused = served.client.post("/generate", json={"prompt": "beat", "duration": 1})
    assert refused.status_code == 503
    assert served.job(running)["status"] == "processing"
    served.rig.release()
    assert served.rig.ended(served.process) == 0
    assert served.rig.get(running).status == "completed"
    assert served.rig.get(waiting).status == "pending"


def test_job_that_outlasts_the_drain_returns_to_the_queue(
    sqlite_url: str, serve: Callable[..., Served]
) -> None:
    served = serve(sqlite_url, drain_seconds=0.5)
    job_id = served.ask("hold")["job_id"]
    served.rig.started(job_id)
    served.process.send_signal(signal.SIGTERM)
    assert served.rig.ended(served.process) == 0
    job = served.rig.get(job_id)
    assert (job.status, job.retry_count) == ("pending", 0)


def test_second_signal_exits_at_once(sqlite_served: Served) -> None:
    job_id = sqlite_served.ask("hold")["job_id"]
    sqlite_served.rig.started(job_id)
    sqlite_served.process.send_signal(signal.SIGTERM)
    # Two at once count as one: a supervisor signals both the process and its group.
    sqlite_served.process.send_signal(signal.SIGTERM)
    sqlite_served.rig.until(lambda: "draining" in sqlite_served.rig.log)
    assert sqlite_served.client.get("/health/live").status_code == 200
    assert sqlite_served.rig.signal_again(sqlite_served.process) == 6


def test_server_without_worker_leaves_jobs_to_other_processes(
    api_url: str, serve: Callable[..., Served]
) -> None:
    served = serve(api_url, worker=False)
    job_id = served.ask("sleep 0")["job_id"]
    assert served.job(job_id)["status"] == "pending"
    served.rig.worker()
    served.until_status(job_id, "completed")


def test_killed_server_loses_no_job(api_url: str, serve: Callable[..., Served]) -> None:
    served = serve(api_url)
    ids = [served.ask(f"sleep 0.{number}")["job_id"] for number in range(1, 6)]
    served.rig.started(ids[0])
    served.process.kill()
    served.process.wait()
    again = serve(api_url)
    for job_id in ids:
        again.until_status(job_id, "completed")
    served.rig.assert_settled(ids)


def test_port_in_use_is_reported(sqlite_served: Served) -> None:
    url = sqlite_served.client.base_url
    with pytest.raises(SettingsError, match=r"Address already in use.*another --port"):
        listen(str(url.host), int(url.port or 0))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_server_can_listen_on_each_local_address(host: str) -> None:
    with listen(host, 0) as listener:
        assert httpx.URL(format_url(listener)).port == listener.getsockname()[1]


def test_foreign_address_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"Cannot listen on 192\.0\.2\.1"):
        listen("192.0.2.1", 0)


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_server_without_worker_checks_the_output_folder_at_start(
    sqlite_url: str, tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").touch()
    settings = Settings(DATABASE_URL=sqlite_url, output_dir=tmp_path / place, model_name="puppet")
    with pytest.raises(OutputError, match=r"file.* cannot be written.*DGX_MUSIC_OUTPUT_DIR"):
        serve_here(settings, load_engines().registry(), host="127.0.0.1", port=0, worker=None)


def test_server_drains_once_for_signals_that_arrive_together(
    sqlite_url: str, tmp_path: Path
) -> None:
    settings = Settings(DATABASE_URL=sqlite_url, output_dir=tmp_path, model_name="puppet")
    registry = load_engines().registry()
    state = make_state(settings, registry)
    before = signal.getsignal(signal.SIGTERM)

    async def main() -> None:
        server = Server(state, create_app(state, registry))
        with server.capture_signals():
            for number in (signal.SIGTERM, signal.SIGHUP):
                os.kill(os.getpid(), number)
            while not server.should_exit:
                await asyncio.sleep(0)
        assert state.is_draining
        assert state.feed.is_closed

    asyncio.run(main())
    assert signal.getsignal(signal.SIGTERM) == before


def test_url_of_an_ipv6_address_has_brackets() -> None:
    with listen("::1", 0) as listener:
        assert format_url(listener).startswith("http://[::1]:")
