"""GET /queue/stats, /prompts, /models and /docs."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services import storage
from services.api.caller import Caller
from services.storage import InvalidCursorError, Prompt
from services.storage.paging import decode_use, encode_use


def pages(rig, **parameters):
    """Every prompt's text, page by page."""
    texts = []
    cursor: dict[str, str] = {}
    while True:
        answer = rig.get("/prompts", **parameters, **cursor)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert len(page["prompts"]) <= parameters["limit"]
        texts.append([(one["text"], one["used_count"]) for one in page["prompts"]])
        if page["next_cursor"] is None:
            return texts
        cursor = {"cursor": page["next_cursor"]}


def test_queue_stats_count_jobs_and_workers(rig):
    for seconds in (1.0, 3.0):
        rig.complete(seconds)
    rig.queue_up()
    rig.start_worker("w", "here")
    stats = rig.get("/queue/stats").json()
    assert stats.pop("oldest_pending_job_age_seconds") >= 0
    assert stats == {
        "pending_jobs": 1,
        "processing_jobs": 0,
        "completed_jobs": 2,
        "failed_jobs": 0,
        "cancelled_jobs": 0,
        "average_processing_time_seconds": 2.0,
        "workers_alive": 1,
        "workers": [{"models": ["here"], "concurrency": 2, "draining": False, "outage": None}],
    }


def test_empty_queue_has_no_age_and_no_average(sqlite_rig):
    stats = sqlite_rig.get("/queue/stats").json()
    assert stats["oldest_pending_job_age_seconds"] is None
    assert stats["average_processing_time_seconds"] is None


@pytest.mark.parametrize("path", ["/queue/stats", "/prompts", "/models"])
def test_unreachable_database_is_unavailable(sqlite_rig, path):
    storage.close_db()
    assert sqlite_rig.get(path).status_code == 503


def test_prompts_are_listed_most_used_first_in_pages(rig):
    for text, uses in (("rare", 1), ("common", 3), ("equal a", 2), ("equal b", 2), ("other", 1)):
        for _ in range(uses):
            rig.add(text)
    assert pages(rig, limit=2) == [
        [("common", 3), ("equal b", 2)],
        [("equal a", 2), ("other", 1)],
        [("rare", 1)],
    ]


def test_prompts_are_searched_by_their_words(rig):
    for text in ("Lo-fi beats with piano", "a piano loop", "a house beat"):
        rig.add(text)
    assert pages(rig, limit=9, search="BEAT") == [
        [("a house beat", 1), ("Lo-fi beats with piano", 1)]
    ]
    assert pages(rig, limit=1, search="piano") == [
        [("a piano loop", 1)],
        [("Lo-fi beats with piano", 1)],
    ]
    assert pages(rig, limit=9, search="piano -- beat") == [[("Lo-fi beats with piano", 1)]]
    assert pages(rig, limit=9, search="?!") == [[]]


def test_key_sees_the_prompts_of_its_own_jobs(rig):
    for owner in ("me", "you", "you", None):
        rig.add("shared", owner=owner)
    rig.add("mine", owner="me")
    rig.add("mine", owner="me")
    rig.add("yours", owner="you")
    rig.state.caller = Caller(owner="me", sees_all=False, name="me")
    assert pages(rig, limit=1) == [[("mine", 2)], [("shared", 1)]]
    assert pages(rig, limit=9, search="shared") == [[("shared", 1)]]
    assert pages(rig, limit=9, search="yours") == [[]]
    rig.state.caller = Caller(owner=None, sees_all=False, name="nobody")
    assert pages(rig, limit=9) == [[]]


@pytest.mark.parametrize(
    "parameters", [{"limit": 0}, {"limit": 101}, {"search": "x" * 501}, {"page": 1}]
)
def test_invalid_prompt_query_is_refused(sqlite_rig, parameters):
    assert sqlite_rig.get("/prompts", **parameters).status_code == 422


def test_unknown_cursor_is_not_found(sqlite_rig):
    assert sqlite_rig.get("/prompts", cursor="").status_code == 404


def test_pages_list_every_prompt_once(sqlite_rig):
    moment = storage.utc_now()
    rows = [
        Prompt(text=f"take {n}", used_count=n % 3 + 1, first_used_at=moment, last_used_at=moment)
        for n in range(25)
    ]
    with storage.get_session() as session:
        session.add_all(rows)
    listed = [one for page in pages(sqlite_rig, limit=4) for one in page]
    assert sorted(listed) == sorted((row.text, row.used_count) for row in rows)
    assert [used for _, used in listed] == sorted((used for _, used in listed), reverse=True)


@given(st.text(max_size=80) | st.binary(max_size=60).map(lambda raw: raw.hex()))
def test_invalid_cursor_is_refused(text):
    with pytest.raises(InvalidCursorError):
        decode_use(text)


@given(st.integers(1, 2**40), st.datetimes(), st.integers(1, 2**62))
def test_cursor_round_trip(count, moment, number):
    found = decode_use(encode_use(count, moment, number))
    assert (found[0], found[1].replace(tzinfo=None), found[2]) == (count, moment, number)


def test_models_are_listed_with_the_reason_they_are_unavailable(rig):
    rig.start_worker("w", "here")
    away, here = rig.get("/models").json()["models"]
    assert (away["available"], away["is_default"], away["served"]) == (False, False, False)
    assert away["why_not"] == "Its weights are not here."
    assert here == {
        "name": "here",
        "version": "2",
        "description": "Composes and synthesises on any machine; needs no weights.",
        "licence": "CC0-1.0",
        "sample_rate": 48_000,
        "channels": 2,
        "shortest_seconds": 1.0,
        "longest_seconds": 600.0,
        "takes_melody": False,
        "has_parts": True,
        "takes_continuation": False,
        "available": True,
        "why_not": None,
        "is_default": True,
        "served": True,
    }


def test_docs_page_loads_own_files_only_and_has_no_inline_script(sqlite_rig):
    answer = sqlite_rig.get("/docs")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "unsafe-inline" not in answer.headers["content-security-policy"]
    addresses = re.findall(r'(?:src|href)="([^"]+)"', answer.text)
    assert not [one for one in addresses if "//" in one]
    assert not re.search(r"<script>|<style|\son\w+=", answer.text)
    files = [one for one in addresses if one.startswith("docs/assets/")]
    assert len(files) == 3
    for file in files:
        asset = sqlite_rig.ask("GET", f"/api/v1/{file}")
        assert asset.status_code == 200
        assert "immutable" in asset.headers["cache-control"]
        assert asset.headers["content-type"].startswith(("text/javascript", "text/css"))
    for name in ("redoc.standalone.js", "..%2fpage.html", "page.html"):
        assert sqlite_rig.get(f"/docs/assets/{name}").status_code == 404


def test_metrics_route_is_not_in_the_document(sqlite_rig):
    assert "/metrics" not in json.loads(sqlite_rig.get("/openapi.json").text)["paths"]


def test_unknown_default_model_is_no_default(sqlite_url, make_rig):
    rig = make_rig(sqlite_url, model_name="nobody")
    assert not any(model["is_default"] for model in rig.get("/models").json()["models"])


def test_unknown_problem_lists_the_types(sqlite_rig):
    answer = sqlite_rig.get("/problems/nothing")
    assert answer.status_code == 404
    assert "rate-limited" in answer.json()["detail"]


def test_draining_worker_serves_no_model(sqlite_rig):
    sqlite_rig.start_worker("w", "here")
    with storage.get_session() as session:
        storage.record_heartbeat(session, "w", draining=True)
    assert not any(model["served"] for model in sqlite_rig.get("/models").json()["models"])
    (worker,) = sqlite_rig.get("/queue/stats").json()["workers"]
    assert worker["draining"]
