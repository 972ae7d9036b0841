"""Logs: one line per event, which cannot be forged and contains no secret."""

import io
import json
import logging
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import IntegrityError

from services import storage
from services.config import Settings
from services.logs import configure_logging, find_level, wants_json

NASTY = "x\n2026-01-01T00:00:00.000Z ERROR forged\x1b[31m\r\u2028\u202e"
KEY = {"X-API-Key": "the-operators-key"}


@pytest.fixture
def logged():
    """Log to a string; return a function that returns its lines."""

    def start(*, as_json, **settings):
        stream = io.StringIO()
        level = find_level(Settings(_env_file=None, **settings))
        configure_logging(level, as_json=as_json, stream=stream)
        return lambda: stream.getvalue().removesuffix("\n").split("\n")

    return start


def test_json_log_has_values_as_fields(logged):
    lines = logged(as_json=True)
    log = logging.getLogger("services.worker.attempt")
    log.info("%s job=%s attempt=%d", "completed", NASTY, 2)
    log.warning("failed at 100%% job=%s: %s", "j", ValueError(NASTY), extra={"request_id": "r"})
    first, second = (json.loads(line) for line in lines())
    assert first["message"].startswith("completed job=x\n2026")
    assert (first["job"], first["attempt"], first["level"]) == (NASTY, 2, "INFO")
    assert first["logger"] == "services.worker.attempt"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["time"])
    assert (second["job"], second["request_id"]) == ("j", "r")
    assert "forged" in second["message"]


def test_text_log_has_one_line_per_event(logged):
    lines = logged(as_json=False)
    log = logging.getLogger("services.worker.attempt")
    log.info("started job=%s", NASTY)
    try:
        raise ValueError(NASTY)
    except ValueError:
        log.exception("it failed")
    found = lines()
    assert re.fullmatch(
        r"\S+Z INFO started job=x\\n2026.*forged\\x1b\[31m\\r\\u2028\\u202e", found[0]
    )
    assert not [line for line in found[2:] if not line.startswith("    ")]
    assert "\x1b" not in "".join(found)


@given(st.text(), st.text(), st.booleans())
def test_no_text_adds_a_line(message, value, as_json):
    stream = io.StringIO()
    configure_logging("INFO", as_json=as_json, stream=stream)
    logging.getLogger("services.x").info("%s job=%s", message, value)
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert len(text.splitlines()) == 1
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", text)
    if as_json:
        assert json.loads(text)["job"] == value


@pytest.mark.parametrize("as_json", [False, True])
def test_no_event_above_debug_says_where_files_are(as_json):
    stream = io.StringIO()
    settings = Settings(_env_file=None, home="/srv/music home", log_level="DEBUG")
    configure_logging(
        find_level(settings), as_json=as_json, hide=settings.hide_paths, stream=stream
    )
    log = logging.getLogger("services.x")
    log.warning("not removed file=%s: %s", settings.output_dir / "a.wav", OSError(13, "no", "/a/b"))
    logging.getLogger("a.library").error("/srv/music home/data/x is away, %d of %.1f", 3, 2.5)
    log.debug("read %s", "/srv/c")
    log.warning("not removed: /%s/%s, %s", "srv", "d/e", [settings.output_dir])
    first, second, third, fourth = stream.getvalue().splitlines()
    assert "DGX_MUSIC_OUTPUT_DIR/a.wav" in first
    assert "DGX_MUSIC_HOME/data/x is away, 3 of 2.5" in second
    assert "srv" not in first + second + fourth
    assert "/a/b" not in first
    assert "/srv/c" in third


def test_level_is_that_of_the_settings_and_libraries_only_warn(logged):
    lines = logged(as_json=False, log_level="WARNING")
    logging.getLogger("services.x").info("hidden")
    logging.getLogger("a.library").info("hidden")
    logging.getLogger("a.library").warning("shown")
    assert [line.split(" ", 1)[1] for line in lines()] == ["WARNING shown"]


def test_access_log_has_no_text_of_the_client(sqlite_database, serve, logged):
    lines = logged(as_json=True)
    served = serve(api_key="the-operators-key")
    with storage.get_session() as session:
        row, secret = storage.create_api_key(session, "laptop")
    served.request(
        "GET",
        "/jobs/a-prompt?q=a-prompt",
        headers={"X-API-Key": secret, "X-Request-ID": "my-id", "User-Agent": "a-prompt"},
        address="::ffff:203.0.113.7",
    )
    served.request("GET", "/a-prompt", headers=KEY)
    served.request("POST", "/generate", json={"prompt": "a-prompt"}, headers=KEY)
    served.request("GET", "/jobs/1", headers={"X-API-Key": "a-prompt"})
    first, missing, made, refused = (json.loads(line) for line in lines())
    assert first["logger"] == "services.api.access"
    assert first["route"] == "/api/v1/jobs/{job_id}"
    assert (first["method"], first["status"], first["request_id"]) == ("GET", 200, "my-id")
    assert (first["client"], first["key"]) == ("203.0.113.7", row.id)
    assert first["bytes"] > 10
    assert 0 <= first["seconds"] < 60
    assert (missing["route"], missing["status"], missing["key"]) == ("unmatched", 404, "operator")
    assert (made["route"], made["status"]) == ("/api/v1/generate", 202)
    assert (refused["route"], refused["status"], refused["key"]) == (
        "/api/v1/jobs/{job_id}",
        401,
        "none",
    )
    text = "".join(lines())
    assert "a-prompt" not in text
    assert secret not in text
    assert "the-operators-key" not in text


def test_exception_is_answered_with_a_problem_and_logged(sqlite_database, serve, logged):
    lines = logged(as_json=False)
    answer = serve().request("GET", "/fault")
    assert answer.status_code == 500
    assert "fault\n" not in answer.text
    assert answer.headers["x-request-id"]
    (line,) = lines()
    assert " route=/api/v1/fault status=500 " in line


def test_log_lines_of_a_request_have_its_id(sqlite_database, serve, logged):
    lines = logged(as_json=True)
    served = serve(api_key="k", rate_limit_per_minute=1)

    @served.app.get("/api/v1/logging")
    async def write_log() -> None:
        logging.getLogger("services.x").info("written")

    served.request("GET", "/logging", headers={"X-API-Key": "k", "X-Request-ID": "mine"})
    assert {json.loads(line)["request_id"] for line in lines()} == {"mine"}


def test_database_error_hides_the_values(database):
    def refused():
        with storage.get_session() as session:
            storage.create_generation(session, "a-prompt", "m", -1, 44100, 2, "a.wav")

    with pytest.raises(IntegrityError, match="hide_parameters") as caught:
        refused()
    # PostgreSQL's own message shows the row.
    assert "a-prompt" not in re.sub(r"DETAIL: .*", "", str(caught.value))


@pytest.mark.parametrize(
    ("setting", "terminal", "expected"),
    [("auto", True, False), ("auto", False, True), ("json", True, True), ("text", False, False)],
)
def test_log_is_json_unless_stderr_is_a_terminal(setting, terminal, expected, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    assert wants_json(Settings(_env_file=None, log_format=setting), sys.stderr) is expected


def test_closed_stderr_is_not_a_terminal():
    assert wants_json(Settings(_env_file=None), None)
