"""How the command line speaks."""

import signal
import subprocess
import sys
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from services import cli
from services.cli import console, doctor
from services.cli.generate import _explain_composer, describe_take
from services.cli.running import StopFlag
from services.errors import CancelledError, InvalidRequestError
from services.generation.musicgen.checkpoint import checkpoints
from services.generation.musicgen.checkpoint.checkpoints import ABSENT
from services.generation.registry import Registry
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


def leave(monkeypatch, error: BaseException, *arguments: str) -> int:
    """Run `main` with an app that raises, and give the exit code."""

    def app() -> None:
        raise error

    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setattr("sys.argv", ["dgx-music", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return int(left.value.code or 0)


def test_an_error_is_one_sentence_and_its_code(monkeypatch, capsys):
    assert leave(monkeypatch, InvalidRequestError("Say more.")) == 2
    assert capsys.readouterr() == ("", "error: Say more.\n")


def test_a_cancellation_is_no_error(monkeypatch, capsys):
    assert leave(monkeypatch, CancelledError("Cancelled.")) == 130
    assert capsys.readouterr() == ("", "Cancelled.\n")


def test_the_unexpected_has_no_traceback_unless_asked_for(monkeypatch, capsys):
    assert leave(monkeypatch, ZeroDivisionError("one over nothing")) == 1
    shown = capsys.readouterr().err
    assert "ZeroDivisionError: one over nothing" in shown
    assert "--debug" in shown
    assert "Traceback" not in shown
    assert leave(monkeypatch, ZeroDivisionError("one over nothing"), "--debug") == 1
    assert "Traceback" in capsys.readouterr().err


def test_rows_are_tab_separated_lines_in_a_pipe(capsys):
    console.answer_table(("id", "prompt"), [("1", "a\tb\nc"), ("2", "[red]x")])
    assert capsys.readouterr().out == "1\ta b c\n2\t[red]x\n"


def test_rows_are_a_table_on_a_terminal_and_prompts_are_not_markup(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "dumb")
    console.answer_table(("id", "prompt"), [("1", "[red]x")])
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split() == ["id", "prompt"]
    assert shown[1].split() == ["1", "[red]x"]


def test_facts_mark_what_the_prompt_did_not_say():
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
            "MusicGen is not installed",
        ),
        (
            None,
            [f"{ABSENT}: do", f"{ABSENT}: this"],
            "No MusicGen model is installed, so the built-in",
        ),
        (None, [f"{ABSENT}: do", "it is damaged."], "one was not used: it is damaged."),
    ],
)
def test_the_composer_says_why_it_played(monkeypatch, package, reasons, said):
    monkeypatch.setattr(checkpoints, "missing_package", lambda: package)
    entries = {
        name: SimpleNamespace(
            facts=SimpleNamespace(name=name),
            is_installed_apart=name != "composer",
            why_unavailable=lambda reason=reason: reason,
        )
        for name, reason in zip(["zero", "one", "composer"], [*reasons, None], strict=True)
    }
    (line,) = _explain_composer(Registry(entries))
    assert line.startswith(said)


def test_facts_of_an_engine_that_knows_little_are_short():
    assert describe_take(job(seed=7)) == ["16 s", "seed 7 · composer · made in 1.2 s · id 1a2b3c4d"]


BUSY = """
import atexit, sys, time
from concurrent.futures import ThreadPoolExecutor
from services import cli

ThreadPoolExecutor(1).submit(time.sleep, 60)
atexit.register(print, "tidied")
print("said")
cli.app = lambda: sys.exit(130)
cli.main()
"""


def test_a_cancelled_command_ends_whatever_its_threads_are_at():
    ended = subprocess.run(
        [sys.executable, "-c", BUSY], capture_output=True, text=True, timeout=30, check=False
    )
    assert (ended.returncode, ended.stdout) == (130, "said\ntidied\n")


def test_the_first_signal_asks_and_the_second_stops(capsys):
    stop = StopFlag()
    before = signal.getsignal(signal.SIGINT)
    with stop.catch_signals():
        assert not stop()
        signal.raise_signal(signal.SIGINT)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    assert "Ctrl-C again" in capsys.readouterr().err


def test_a_gpu_tool_that_fails_is_a_warning(monkeypatch, tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nexit 9\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    found = next(finding for finding in doctor.examine() if finding.name == "gpu")
    assert found.verdict == "warn"
    tool.write_text("#!/bin/sh\necho 'NVIDIA GB10, 122570 MiB, 580.95'\n")
    found = next(finding for finding in doctor.examine() if finding.name == "gpu")
    assert (found.verdict, found.detail) == ("ok", "NVIDIA GB10, 122570 MiB, 580.95")
