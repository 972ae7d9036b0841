"""What `generate` prints about a finished take."""

from datetime import UTC, datetime

import pytest

from services.cli.generate import _explain_composer, describe_take
from services.generation.musicgen.checkpoint import checkpoints
from services.generation.musicgen.checkpoint.checkpoints import ABSENT
from services.jobs.models import Job


def job(**metadata: object) -> Job:
    return Job(
        job_id="1a2b3c4d-0000-4000-8000-000000000000",
        status="completed",
        prompt="a [bold]beat[/bold]",
        model="composer",
        duration_seconds=16.0,
        file="x.wav",
        metadata=dict(metadata),
        generation_time_seconds=1.25,
        error_message=None,
        retry_count=0,
        created_at=datetime.now(UTC),
        completed_at=None,
    )


def test_description_marks_what_the_prompt_did_not_state():
    shown = describe_take(
        job(
            seed=7, engine="composer", licence="CC0-1.0", bpm=140.0, key="C minor", bars=1,
            genre="trap", requested={"genre": "trap", "mood": ["dark"]}, integrated_lufs=-16.0,
            true_peak_dbtp=-1.02, notes=["drill is played as a kind of trap."],
        )
    )  # fmt: skip
    assert shown == [
        "trap · 140 BPM (assumed) · C minor (assumed) · dark · 1 bar · 16 s · "
        "-16.0 LUFS · -1.0 dBTP",
        "seed 7 · composer · licence CC0-1.0 · made in 1.2 s · id 1a2b3c4d",
        "drill is played as a kind of trap.",
    ]


@pytest.mark.parametrize(
    ("package", "reasons", "said"),
    [
        (
            "torch",
            ["torch is not installed", "torch is not installed"],
            "No MusicGen model is installed, so the built-in",
        ),
        (
            None,
            [f"{ABSENT}: do", f"{ABSENT}: this"],
            "No MusicGen model is installed, so the built-in",
        ),
        (None, [f"{ABSENT}: do", "it is damaged."], "one was not used: it is damaged."),
    ],
)
def test_generate_explains_why_the_composer_played(monkeypatch, package, reasons, said):
    monkeypatch.setattr(checkpoints, "missing_package", lambda: package)
    passed_over = dict(zip(["zero", "one"], reasons, strict=True))
    (line,) = _explain_composer(passed_over, lambda: True)
    assert line.startswith(said)
    # What is damaged is said again after every take.
    again = _explain_composer(passed_over, lambda: False)
    assert again == ([line] if "damaged" in said else [])


def test_description_of_an_engine_without_facts_is_short():
    assert describe_take(job(seed=7)) == ["16 s", "seed 7 · composer · made in 1.2 s · id 1a2b3c4d"]


def test_one_bar_is_singular_and_several_are_plural():
    assert describe_take(job(seed=7, bars=1))[0].startswith("1 bar ·")
    assert describe_take(job(seed=7, bars=8))[0].startswith("8 bars ·")


def test_style_is_named_before_its_genre():
    described = describe_take(
        job(seed=7, genre="trap", requested={"style": "drill", "genre": "trap"})
    )
    assert described[0].startswith("drill · ")


def test_damaged_models_are_named_and_absent_ones_are_not(monkeypatch):
    monkeypatch.setattr(checkpoints, "missing_package", lambda: None)
    reasons = {
        "small": f"{ABSENT}: install it",
        "medium": "a tensor is missing",
        "large": "cut off",
    }
    assert _explain_composer(reasons, lambda: False) == [
        "medium was not used: a tensor is missing",
        "large was not used: cut off",
    ]
