"""Requests and answers: submission, jobs, history, errors."""

from __future__ import annotations

import json
import re
import threading
import uuid
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services import storage
from services.api import feed
from services.api.caller import Caller
from services.api.problems import TYPES, convert_error, convert_status
from services.api.routers.generate import _parse_wait
from services.api.schemas import PROMPT_PATTERN, GenerateRequest
from services.errors import DGXMusicError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.api.conftest import Api

AS_ECMA = jsonschema_rs.validator_for({"pattern": PROMPT_PATTERN})
"""The pattern under the rules of ECMA, whose white space differs from Python's."""
GENERATE = "/api/v1/generate"
BATCH = "/api/v1/generate/batch"


def assert_problem(answer: Any, name: str) -> dict[str, Any]:
    """Assert the form that every error has; return its JSON."""
    kind = TYPES[name]
    assert answer.status_code == kind.status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["type"] == kind.uri
    assert (problem["title"], problem["status"]) == (kind.title, kind.status)
    assert problem["detail"]
    return problem


def test_stream_over_the_limit_is_refused_before_it_begins(
    sqlite_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "MAX_SUBSCRIBERS", 0)
    job_id = sqlite_api.ask()
    for url in ("/api/v1/events", f"/api/v1/jobs/{job_id}/events"):
        assert_problem(sqlite_api.client.get(url), "unavailable")
    # A request that would wait is not refused, because its job is accepted already.
    answer = sqlite_api.client.post(
        GENERATE, json={"prompt": "sleep 0"}, headers={"Prefer": "wait=30"}
    )
    assert answer.status_code == 202
    assert "preference-applied" not in answer.headers


def test_job_is_accepted_and_found(api: Api) -> None:
    answer = api.client.post(GENERATE, json={"prompt": "  lo-fi   beat ", "seed": 5})
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/api/v1/jobs/{job['job_id']}"
    assert answer.headers["retry-after"] == "1"
    assert uuid.UUID(job["job_id"]).version == 4
    assert (job["status"], job["current_step"], job["queue_position"]) == ("pending", "queued", 1)
    assert (job["prompt"], job["seed"], job["duration_seconds"]) == ("lo-fi beat", 5, 16.0)
    assert job["created_at"].endswith("Z")
    assert api.client.get(answer.headers["location"]).json() == job


def test_seed_is_drawn_and_reported(api: Api) -> None:
    seeds = {api.client.post(GENERATE, json={"prompt": "beat"}).json()["seed"] for _ in range(4)}
    assert len(seeds) == 4


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/prompt"),
        ({"prompt": "ab"}, "/prompt"),
        ({"prompt": "x" * 501}, "/prompt"),
        ({"prompt": "beat\x00"}, "/prompt"),
        ({"prompt": 7}, "/prompt"),
        ({"prompt": "beat", "duration": 0}, "/duration"),
        ({"prompt": "beat", "duration": "8"}, "/duration"),
        ({"prompt": "beat", "seed": -1}, "/seed"),
        ({"prompt": "beat", "seed": True}, "/seed"),
        ({"prompt": "beat", "top_k": 501}, "/top_k"),
        ({"prompt": "beat", "model": "nobody"}, "/model"),
        ({"prompt": "beat", "priority": "urgent"}, "/priority"),
        ({"prompt": "beat", "mood": "sad"}, "/mood"),
    ],
)
def test_invalid_field_is_named(sqlite_api: Api, body: dict[str, Any], pointer: str) -> None:
    problem = assert_problem(sqlite_api.client.post(GENERATE, json=body), "invalid-request")
    assert [error["pointer"] for error in problem["errors"]] == [pointer]
    assert sqlite_api.client.get("/api/v1/history").json()["total"] == 0


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"prompt": NaN}', '{"prompt":"a","prompt', "\ud800"]
)
def test_body_that_is_not_a_json_object_is_refused(sqlite_api: Api, content: str) -> None:
    answer = sqlite_api.client.post(
        GENERATE,
        content=content.encode("utf-8", "surrogatepass"),
        headers={"content-type": "application/json"},
    )
    assert answer.status_code in {400, 422}
    assert answer.headers["content-type"] == "application/problem+json"


def test_two_different_idempotency_keys_are_refused(sqlite_api: Api) -> None:
    def post(*keys: str) -> Any:
        headers = [("Idempotency-Key", key) for key in keys]
        return sqlite_api.client.post(GENERATE, json={"prompt": "beat"}, headers=headers)

    problem = assert_problem(post("a", "b"), "invalid-request")
    assert [error["parameter"] for error in problem["errors"]] == ["Idempotency-Key"]
    assert post("a", "a").json()["job_id"] == post("a").json()["job_id"]


def test_a_pointer_into_a_batch_leads_to_its_request(sqlite_api: Api) -> None:
    for fields in ({"model": "nobody"}, {"model": "choir", "melody": "0" * 64}):
        requests = [{"prompt": "beat"}, {"prompt": "beat", **fields}]
        answer = sqlite_api.client.post(BATCH, json={"requests": requests})
        (error,) = assert_problem(answer, "invalid-request")["errors"]
        assert error["pointer"] == f"/requests/1/{list(fields)[-1]}"


def test_pointers_are_json_pointers_and_parameters_are_named(sqlite_api: Api) -> None:
    odd = sqlite_api.client.post(GENERATE, json={"prompt": "beat", "a/b~c": 1})
    (error,) = assert_problem(odd, "invalid-request")["errors"]
    assert (error["pointer"], "parameter" in error) == ("/a~1b~0c", False)
    page = sqlite_api.client.get("/api/v1/history", params={"limit": 0})
    (error,) = assert_problem(page, "invalid-request")["errors"]
    assert (error["parameter"], "pointer" in error) == ("limit", False)


def test_nan_infinite_and_tiny_durations_are_refused(sqlite_api: Api) -> None:
    for number in ("NaN", "Infinity", "-Infinity", "1e999", "5e-324"):
        answer = sqlite_api.client.post(
            GENERATE,
            content=f'{{"prompt": "beat", "duration": {number}}}',
            headers={"content-type": "application/json"},
        )
        assert_problem(answer, "invalid-request")


def test_duration_beyond_the_model_is_refused(sqlite_api: Api) -> None:
    answer = sqlite_api.client.post(GENERATE, json={"prompt": "beat", "duration": 31})
    assert "1 to 30 seconds" in assert_problem(answer, "invalid-request")["detail"]


@given(st.text(max_size=505))
def test_schema_pattern_accepts_what_the_server_accepts(prompt: str) -> None:
    try:
        GenerateRequest(prompt=prompt)
    except ValueError:
        taken = False
    else:
        taken = True
    assert (re.match(PROMPT_PATTERN, prompt) is not None) == taken
    assert AS_ECMA.is_valid(prompt) == taken


@given(st.text(st.sampled_from(" \t\nab\x1c\x1e\x85\xa0\ufeff\x07"), max_size=9))
def test_schema_pattern_handles_white_space_and_controls(prompt: str) -> None:
    test_schema_pattern_accepts_what_the_server_accepts.hypothesis.inner_test(prompt)


def test_batch_is_accepted_all_or_none(api: Api) -> None:
    good, bad = {"prompt": "beat"}, {"prompt": "beat", "duration": 99}
    assert_problem(api.client.post(BATCH, json={"requests": [good, bad]}), "invalid-request")
    assert_problem(api.client.post(BATCH, json={"requests": []}), "invalid-request")
    assert_problem(api.client.post(BATCH, json={"requests": [good] * 11}), "invalid-request")
    assert api.client.get("/api/v1/history").json()["total"] == 0
    answer = api.client.post(BATCH, json={"requests": [good] * 10})
    assert answer.status_code == 202
    assert answer.json()["total_jobs"] == len(set(answer.json()["job_ids"])) == 10
    positions = [
        api.client.get(f"/api/v1/jobs/{job_id}").json()["queue_position"]
        for job_id in answer.json()["job_ids"]
    ]
    assert positions == list(range(1, 11))


def test_repeated_request_creates_no_second_job(api: Api) -> None:
    def send(key: str, prompt: str = "beat") -> Any:
        return api.client.post(GENERATE, json={"prompt": prompt}, headers={"Idempotency-Key": key})

    first = send('"one"')
    assert send("one").json() == first.json()
    assert send("two").json()["job_id"] != first.json()["job_id"]
    assert_problem(send("one", "other beat"), "idempotency-key-reused")
    assert_problem(send("a b"), "invalid-request")
    assert_problem(send("x" * 256), "invalid-request")
    assert api.client.get("/api/v1/history").json()["total"] == 2
    answer = api.client.post(
        BATCH, json={"requests": [{"prompt": "beat"}]}, headers={"Idempotency-Key": "one"}
    )
    assert_problem(answer, "idempotency-key-reused")


def test_concurrent_repeated_requests_create_one_job(api: Api) -> None:
    ids: list[str] = []

    def send() -> None:
        answer = api.client.post(
            GENERATE, json={"prompt": "beat"}, headers={"Idempotency-Key": "same"}
        )
        ids.append(answer.json()["job_id"])

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 8
    assert len(set(ids)) == 1


def test_repeated_batch_returns_the_same_jobs(api: Api) -> None:
    body = {"requests": [{"prompt": "beat one"}, {"prompt": "beat two"}]}
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    first = api.client.post(BATCH, json=body, headers=headers).json()
    assert api.client.post(BATCH, json=body, headers=headers).json()["job_ids"] == first["job_ids"]


def test_idempotency_keys_are_separate_for_each_owner(api: Api) -> None:
    headers = {"Idempotency-Key": "one"}
    ids = set()
    for owner in ("alice", "bob"):
        api.callers.caller = Caller(owner, sees_all=False, name=owner)
        ids.add(api.client.post(GENERATE, json={"prompt": "beat"}, headers=headers).text)
    assert len(ids) == 2


def test_full_queue_refuses_with_retry_after(sqlite_url: str, make_api: Callable[..., Api]) -> None:
    api = make_api(sqlite_url, queue_limit=2)
    api.ask()
    batch = api.client.post(BATCH, json={"requests": [{"prompt": "beat"}] * 2})
    assert_problem(batch, "queue-full")
    job_id = api.ask()
    answer = api.client.post(GENERATE, json={"prompt": "beat"})
    assert_problem(answer, "queue-full")
    assert int(answer.headers["retry-after"]) > 0
    api.client.delete(f"/api/v1/jobs/{job_id}")
    api.ask()


def test_disk_below_its_floor_refuses_jobs(sqlite_url: str, make_api: Callable[..., Api]) -> None:
    api = make_api(sqlite_url, disk_floor_bytes=2**60)
    problem = assert_problem(
        api.client.post(GENERATE, json={"prompt": "beat"}), "insufficient-storage"
    )
    assert "Free some space" in problem["detail"]
    assert api.client.get("/api/v1/history").json()["total"] == 0


def test_job_is_logged_with_id_and_without_prompt(
    sqlite_api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "services"):
        job_id = sqlite_api.ask("a secret beat")
    assert f"accepted job={job_id}" in caplog.text
    assert "secret" not in caplog.text


def test_job_is_cancelled_once(api: Api) -> None:
    job_id = api.ask()
    answer = api.client.delete(f"/api/v1/jobs/{job_id}")
    assert answer.status_code == 200
    assert answer.json()["status"] == "cancelled"
    assert_problem(api.client.delete(f"/api/v1/jobs/{job_id}"), "job-finished")
    assert_problem(api.client.delete(f"/api/v1/jobs/{uuid.uuid4()}"), "not-found")


def test_foreign_job_is_answered_like_a_missing_one(api: Api) -> None:
    alice, bob = (Caller(name, sees_all=False, name=name) for name in ("alice", "bob"))
    api.callers.caller = alice
    job_id = api.ask("beat of alice")
    api.callers.caller = bob
    nobodys = str(uuid.uuid4())
    for method, path in (
        ("GET", "/jobs/{}"),
        ("DELETE", "/jobs/{}"),
        ("GET", "/jobs/{}/events"),
    ):
        foreign = api.client.request(method, f"/api/v1{path.format(job_id)}")
        missing = api.client.request(method, f"/api/v1{path.format(nobodys)}")
        assert_problem(foreign, "not-found")
        assert foreign.text.replace(job_id, nobodys) == missing.text
    assert api.client.get("/api/v1/history").json()["total"] == 0
    assert api.client.get("/api/v1/history?search=alice").json()["generations"] == []
    api.callers.caller = alice
    assert api.client.get("/api/v1/history?search=alice").json()["total"] == 1
    api.callers.caller = Caller(None, sees_all=True, name="operator")
    assert api.client.get("/api/v1/history").json()["total"] == 1


def test_high_priority_needs_the_operator(api: Api) -> None:
    api.callers.caller = Caller("alice", sees_all=False, name="alice")
    answer = api.client.post(GENERATE, json={"prompt": "beat", "priority": "high"})
    assert_problem(answer, "operator-only")
    api.callers.caller = Caller(None, sees_all=True, name="operator")
    waiting = api.ask("beat")
    api.ask("urgent beat", priority="high")
    assert api.client.get(f"/api/v1/jobs/{waiting}").json()["queue_position"] == 2
    body = {"requests": [{"prompt": "beat", "priority": "low"}, {"prompt": "beat"}]}
    low, normal = api.client.post(BATCH, json=body).json()["job_ids"]
    places = [api.client.get(f"/api/v1/jobs/{one}").json() for one in (low, normal)]
    assert [job["queue_position"] for job in places] == [4, 3]


def test_history_is_paged_by_cursor_and_by_number(api: Api) -> None:
    ids = [api.ask(f"beat number {number}") for number in range(5)]
    get = api.client.get
    first = get("/api/v1/history?page_size=2").json()
    assert [job["job_id"] for job in first["generations"]] == ids[:2:-1]
    assert (first["total"], first["page"], first["page_size"]) == (5, 1, 2)
    second = get("/api/v1/history", params={"page_size": 2, "cursor": first["next_cursor"]})
    assert (
        second.json()["generations"]
        == get("/api/v1/history?page_size=2&page=2").json()["generations"]
    )
    link = re.fullmatch(r'<(.+)>; rel="next"', second.headers["link"])
    assert link is not None
    last = get(link[1]).json()
    assert [job["job_id"] for job in last["generations"]] == ids[:1]
    assert last["next_cursor"] is None
    found = get("/api/v1/history?search=number%203&page_size=1").json()
    assert [job["job_id"] for job in found["generations"]] == [ids[3]]
    assert found["total"] == 1
    middle = first["generations"][1]["created_at"]
    assert get("/api/v1/history", params={"created_after": middle}).json()["total"] == 2
    assert get("/api/v1/history", params={"created_before": middle}).json()["total"] == 3
    assert get("/api/v1/history?status=completed").json()["total"] == 0
    assert get("/api/v1/history?model=puppet").json()["total"] == 5


@pytest.mark.parametrize(
    "query",
    ["page=0", "page_size=101", "status=done", "colour=red", "created_after=yesterday",
     "created_before=9999-12-31T23:59:59-23:59", "created_after=0001-01-01T00:00:00%2B23:59",
     "created_after=1767225600", "created_after=2026-01-31T12:00:00", "search=" + "x" * 501],
)  # fmt: skip
def test_invalid_history_query_is_refused(sqlite_api: Api, query: str) -> None:
    assert_problem(sqlite_api.client.get(f"/api/v1/history?{query}"), "invalid-request")


def test_unknown_cursor_is_not_found(sqlite_api: Api) -> None:
    assert_problem(sqlite_api.client.get("/api/v1/history?cursor=xyz"), "not-found")


def test_unknown_paths_and_methods_are_problems(sqlite_api: Api) -> None:
    assert_problem(sqlite_api.client.get("/api/v1/nothing"), "not-found")
    assert_problem(sqlite_api.client.get("/"), "not-found")
    answer = sqlite_api.client.put("/api/v1/history")
    assert_problem(answer, "method-not-allowed")
    assert answer.headers["allow"] == "GET, HEAD"
    answer = sqlite_api.client.post("/api/v1/jobs/x")
    assert answer.headers["allow"] == "DELETE, GET, HEAD"
    answer = sqlite_api.client.post("/api/v1/files/x")
    assert answer.headers["allow"] == "GET, HEAD"


def test_internal_error_reveals_nothing(sqlite_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(sqlite_api.state.service, "find_all", fail)
    answer = sqlite_api.client.get(f"/api/v1/jobs/{uuid.uuid4()}")
    assert_problem(answer, "internal-error")
    assert "secret" not in answer.text


def test_locked_database_is_unavailable(sqlite_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(*_: object, **__: object) -> None:
        raise storage.DatabaseLockedError("Another process is using the database; try again.")

    monkeypatch.setattr(storage, "get_session", locked)
    answer = sqlite_api.client.get("/api/v1/history")
    assert_problem(answer, "unavailable")
    assert int(answer.headers["retry-after"]) > 0


def fail(api: Api, job_id: str, status: str = "failed") -> None:
    with storage.get_session() as session:
        storage.update_generation_status(session, job_id, status)
        storage.remove_queue_entry(session, job_id)


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_job_that_failed_is_sent_again(api: Api, status: str) -> None:
    old = api.ask("sleep 0", seed=5)
    fail(api, old, status)
    url = f"/api/v1/jobs/{old}/retry"
    answer = api.client.post(url, headers={"Idempotency-Key": "one"})
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert answer.headers["location"] == f"/api/v1/jobs/{job['job_id']}"
    assert (job["status"], job["seed"], job["queue_position"]) == ("pending", 5, 1)
    assert job["metadata"]["parent"] == old != job["job_id"]
    shown = api.client.get(f"/api/v1/jobs/{old}").json()
    assert (shown["status"], shown["metadata"]["sent_again_as"]) == (status, job["job_id"])
    repeated = api.client.post(url, headers={"Idempotency-Key": "one"})
    assert repeated.json()["job_id"] == job["job_id"]


def test_only_a_failed_job_is_sent_again(sqlite_api: Api) -> None:
    job_id = sqlite_api.ask()
    answer = sqlite_api.client.post(f"/api/v1/jobs/{job_id}/retry")
    problem = assert_problem(answer, "job-not-failed")
    assert "is pending" in problem["detail"]
    answer = sqlite_api.client.post(f"/api/v1/jobs/{uuid.uuid4()}/retry")
    assert_problem(answer, "not-found")


def test_draining_server_refuses_jobs(sqlite_api: Api) -> None:
    job_id = sqlite_api.ask()
    sqlite_api.state.is_draining = True
    assert_problem(sqlite_api.client.post(GENERATE, json={"prompt": "beat"}), "unavailable")
    body = {"requests": [{"prompt": "beat"}]}
    assert_problem(sqlite_api.client.post(BATCH, json=body), "unavailable")
    assert sqlite_api.client.get(f"/api/v1/jobs/{job_id}").status_code == 200


@pytest.mark.parametrize("name", TYPES)
def test_every_problem_type_has_a_page(sqlite_api: Api, name: str) -> None:
    answer = sqlite_api.client.get(TYPES[name].uri)
    assert answer.status_code == 200
    assert TYPES[name].advice in answer.text


def test_every_service_error_becomes_a_problem() -> None:
    def leaves(kind: type[DGXMusicError]) -> list[type[DGXMusicError]]:
        return [kind, *(leaf for each in kind.__subclasses__() for leaf in leaves(each))]

    for kind in leaves(DGXMusicError):
        problem = convert_error(kind("what to do"))
        assert problem.kind.status >= 400
        assert (problem.detail == "what to do") == (problem.kind.status != 500)


@given(st.integers(400, 599))
def test_any_http_status_becomes_a_problem(status: int) -> None:
    problem = convert_status(status, "", {})
    assert problem.kind.status // 100 == status // 100
    assert problem.detail


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None), ("respond-async", None), ("wait=5", 5), ("respond-async, wait=10", 10),
        ("WAIT=7", 7), ("wait=100000", 60), ("wait=-1", None), ("await=3", None), ("wait=x", None),
    ],
)  # fmt: skip
def test_wait_is_parsed_from_prefer(header: str | None, seconds: float | None) -> None:
    assert _parse_wait(header) == seconds


def test_wait_ends_after_its_time(sqlite_api: Api) -> None:
    answer = sqlite_api.client.post(GENERATE, json={"prompt": "beat"}, headers={"Prefer": "wait=1"})
    assert answer.status_code == 202
    assert answer.headers["preference-applied"] == "wait=1"
    assert json.loads(answer.text)["status"] == "pending"
