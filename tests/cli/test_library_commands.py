"""`dgx-music history`, `status` and `models list`."""

import json
import subprocess
from datetime import UTC, datetime, timedelta

import pytest

from services.cli import library
from services.generation import registry
from services.generation.registry import EngineEntry, Registry
from tests.conftest import LIMIT_SECONDS
from tests.generation.test_trial import FACTS, Tone

pytestmark = pytest.mark.integration


def call_json(home, *arguments):
    result = home.call(*arguments, "--json")
    assert (result.returncode, result.stderr) == (0, "")
    return json.loads(result.stdout)


def list_prompts(home, *filters):
    return [job["prompt"] for job in call_json(home, "history", *filters)["generations"]]


@pytest.fixture
def library_of_four(home):
    home.add_job("calm piano", bpm=72.0, key="A minor")
    home.add_job("loud drums", model="musicgen-small")
    home.add_job("calm drums", status="failed")
    home.add_job("calm strings", status="pending")
    return home


def test_empty_history_says_so_on_stderr(home):
    result = home.call("history")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "There are no jobs yet.\n")
    assert call_json(home, "history") == {"generations": [], "next_cursor": None}


@pytest.mark.parametrize(
    "filters", [("--search", "violin"), ("--status", "cancelled"), ("--model", "musicgen-large")]
)
def test_filter_without_a_match_says_so(library_of_four, filters):
    result = library_of_four.call("history", *filters)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "No jobs match.\n")


@pytest.mark.parametrize(
    ("filters", "prompts"),
    [
        ((), ["calm strings", "calm drums", "loud drums", "calm piano"]),
        (("--limit", "1"), ["calm strings"]),
        (("--search", "drums"), ["calm drums", "loud drums"]),
        (("--search", "drums calm"), ["calm drums"]),
        (("--status", "completed"), ["loud drums", "calm piano"]),
        (("--status", "failed"), ["calm drums"]),
        (("--model", "musicgen-small"), ["loud drums"]),
        (("--search", "calm", "--status", "completed", "--model", "composer"), ["calm piano"]),
    ],
)
def test_history_is_newest_first_and_filters_combine(library_of_four, filters, prompts):
    assert list_prompts(library_of_four, *filters) == prompts


def test_cursors_lead_through_the_whole_history_once(home):
    added = [home.add_job(f"take {number}") for number in range(5)]
    seen, cursor = [], ()
    while cursor is not None:
        page = call_json(home, "history", "--limit", "2", *cursor)
        seen += [job["job_id"] for job in page["generations"]]
        cursor = ("--cursor", page["next_cursor"]) if page["next_cursor"] else None
    assert seen == added[::-1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--limit", "0"), "--limit"),
        (("--limit", "1001"), "--limit"),
        (("--limit", "many"), "--limit"),
        (("--status", "done"), "completed"),
        (("--cursor", "nonsense"), "cursor"),
    ],
)
def test_impossible_filter_is_refused(library_of_four, arguments, words):
    result = library_of_four.call("history", *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert words in result.stderr


def test_history_in_a_pipe_has_full_values_and_no_headings(home):
    job_id = home.add_job("calm piano", bpm=72.0, key="A minor")
    (line,) = home.call("history").stdout.splitlines()
    found, when, *rest = line.split("\t")
    assert found == job_id
    assert datetime.fromisoformat(when).tzinfo is not None
    assert rest == ["completed", "2", "72", "A minor", "composer", "calm piano"]


def test_history_on_a_terminal_has_headings_and_short_ids(home):
    job_id = home.add_job("calm [red]piano", bpm=72.0, key="A minor")
    headings, row = home.call("history", width=100).stdout.splitlines()
    assert headings.split() == ["id", "when", "status", "s", "bpm", "key", "model", "prompt"]
    assert row.startswith(f"{job_id[:8]}  just now  completed  2  72   A minor")
    assert row.rstrip().endswith("calm [red]piano")


def test_long_prompt_wraps_on_a_narrow_terminal(home):
    home.add_job("calm piano " * 8)
    lines = home.call("history", width=70).stdout.splitlines()
    assert len(lines) > 2
    assert max(len(line) for line in lines) <= 70
    assert sum(line.count("calm") for line in lines) == 8


def test_history_notes_that_there_are_more_jobs(library_of_four):
    assert "--limit" in library_of_four.call("history", "--limit", "3").stderr
    assert library_of_four.call("history", "--limit", "4").stderr == ""


def test_completed_job_without_its_file_is_marked(home):
    home.add_job("calm piano", file_missing=True)
    assert "\tcompleted, file missing\t" in home.call("history").stdout


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-5, "just now"),
        (59, "just now"),
        (60, "1 min ago"),
        (3599, "59 min ago"),
        (3600, "1 h ago"),
        (86_399, "23 h ago"),
        (86_400, "1 d ago"),
        (10 * 86_400, "10 d ago"),
    ],
)
def test_age_is_shown_in_its_largest_unit(seconds, shown):
    moment = datetime.now(UTC) - timedelta(seconds=seconds, milliseconds=300)
    assert library._format_age(moment) == shown


def test_start_of_an_id_finds_the_job(library_of_four):
    newest = call_json(library_of_four, "history")["generations"][0]
    shown = call_json(library_of_four, "status", newest["job_id"][:6])
    assert shown == newest | {"analysis": None, "stems": {}, "midi": None}
    assert {"job_id", "status", "prompt", "model", "file", "metadata", "error_message"} <= set(
        newest
    )


@pytest.mark.parametrize("job", ["ffffffff", "%", "_", "", "a"])
def test_unknown_or_ambiguous_id_is_refused(home, job):
    for last in "12":
        home.add_job("calm piano", job_id=f"aaaaaaaa-0000-4000-8000-00000000000{last}")
    result = home.call("status", job)
    assert (result.returncode, result.stdout) == (3, "")
    assert result.stderr.startswith("error: ")


def test_status_shows_a_line_for_each_known_value(home):
    job_id = home.add_job(
        "calm piano", bpm=72.0, requested={"mood": ["calm", "warm"], "tempo_bpm": 72}
    )
    lines = dict(line.split(None, 1) for line in home.call("status", job_id).stdout.splitlines())
    assert lines["job_id"] == job_id
    assert lines["bpm"] == "72.0"
    assert lines["requested"] == "mood calm, warm, tempo_bpm 72"
    assert lines["file"] == str(home.path / "data/outputs/2026/11/21" / f"{job_id}.wav")
    assert "error_message" not in lines
    assert "metadata" not in lines


def test_status_of_a_failed_job_has_its_reason(home):
    job_id = home.add_job("calm piano", status="failed")
    assert "The engine failed." in home.call("status", job_id).stdout


@pytest.fixture
def two_engines(monkeypatch):
    entries = {
        "tone": EngineEntry(FACTS, Tone, lambda: None),
        "deaf": EngineEntry(FACTS, Tone, lambda: "its weights are missing."),
    }
    monkeypatch.setattr(registry, "default_registry", lambda _settings: Registry(entries))


@pytest.mark.usefixtures("two_engines")
def test_models_are_listed_with_why_one_cannot_run(home):
    tone, deaf = call_json(home, "models", "list")
    assert tone == {
        "name": FACTS.name,
        "version": FACTS.version,
        "available": True,
        "why_unavailable": None,
        "output_licence": FACTS.output_licence,
        "sample_rate": FACTS.sample_rate,
        "channels": FACTS.channels,
        "longest_seconds": FACTS.longest_seconds,
        "description": FACTS.description,
    }
    assert (deaf["available"], deaf["why_unavailable"]) == (False, "its weights are missing.")
    lines = home.call("models", "list").stdout.splitlines()
    assert [line.split("\t")[1] for line in lines] == ["yes", "no: its weights are missing."]
    assert home.call("models", "list", width=100).stdout.startswith("name")


def test_characters_that_the_locale_does_not_have_are_escaped(home):
    home.add_job("caf\u00e9 \u2013 \u97f3\u697d")
    home.environment["PYTHONIOENCODING"] = "latin-1"
    ran = subprocess.run(
        home.command("history"), cwd=home.path, env=home.full_environment(),
        capture_output=True, timeout=LIMIT_SECONDS, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert b"caf\xe9 \\u2013 \\u97f3\\u697d" in ran.stdout
