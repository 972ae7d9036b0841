"""`models test`, `benchmark` and `validate-gpu`: their answers and exit codes."""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import replace
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
import typer

from services.cli import gpu, trial
from services.errors import (
    EngineError,
    EngineUnavailableError,
    InvalidRequestError,
)
from services.generation import registry
from services.generation.registry import EngineEntry, Registry
from services.machine.gpu import GpuReport
from tests.generation.test_trial import FACTS, Tone
from tests.machine.test_gpu_verdict import GOOD

if TYPE_CHECKING:
    from services.machine.gpu_verdict import GpuSetup

NEURAL = replace(FACTS, name="musicgen-tone")
MISSING = "Its weights are not here."


@pytest.fixture(autouse=True)
def _engines(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {
        "tone": EngineEntry(FACTS, Tone, lambda: None),
        "mute": EngineEntry(replace(FACTS, name="mute"), lambda: Tone(level=0.0), lambda: None),
        "musicgen-tone": EngineEntry(NEURAL, lambda: Tone(NEURAL), lambda: MISSING),
    }
    monkeypatch.setattr(registry, "default_registry", lambda _settings: Registry(entries))


@pytest.fixture
def _oracle(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType(trial.ORACLE)
    module.random_engine = lambda _name, _settings: Tone(NEURAL)
    module.transformers_engine = lambda _name, _settings, **_how: Tone(NEURAL)
    monkeypatch.setitem(sys.modules, trial.ORACLE, module)


def measure(capsys: pytest.CaptureFixture[str], **options: object) -> list[dict[str, object]]:
    trial.benchmark(**({"seconds": "1", "requests": 1, "as_json": True} | options))
    return list(json.loads(capsys.readouterr().out)["measurements"])


def test_working_model_is_shown_with_its_facts(capsys: pytest.CaptureFixture[str]) -> None:
    trial.try_model("tone", as_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert (shown["model"], shown["audio_seconds"], shown["problems"]) == ("tone", 2.0, [])
    trial.try_model("tone")
    shown_text = capsys.readouterr()
    assert "sample rate         8000" in shown_text.out
    assert "The model 'tone' works." in shown_text.err


def test_silent_model_fails() -> None:
    with pytest.raises(EngineError, match="'mute' is faulty: it is silent"):
        trial.try_model("mute")


def test_benchmark_has_a_row_for_each_length(capsys: pytest.CaptureFixture[str]) -> None:
    rows = measure(capsys, model="tone", seconds="1,2.5", requests=3)
    assert [(row["engine"], row["seconds"], row["requests"]) for row in rows] == [
        ("tone", 1.0, 3),
        ("tone", 2.5, 3),
    ]
    trial.benchmark(model="tone", seconds="2")
    assert capsys.readouterr().out.startswith("tone\t2 s\t1\t")


@pytest.mark.usefixtures("_oracle")
def test_transformers_takes_turns_with_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    rows = measure(
        capsys, model="musicgen-tone", seconds="1,2", random_weights=True, against_transformers=True
    )
    names = ["musicgen-tone", "musicgen-tone in transformers"]
    assert [row["engine"] for row in rows] == names * 2


@pytest.mark.parametrize("seconds", ["", "5,", "5;30", "nan", "inf", "0", "-1", "0.5", "31"])
def test_impossible_lengths_are_refused(seconds: str) -> None:
    with pytest.raises(InvalidRequestError, match="--seconds"):
        trial.benchmark(model="tone", seconds=seconds)


def test_model_without_weights_cannot_be_measured() -> None:
    with pytest.raises(InvalidRequestError, match="not 'tone'"):
        trial.benchmark(model="tone", random_weights=True)
    with pytest.raises(EngineUnavailableError, match="weights are not here"):
        trial.benchmark(model="musicgen-tone")


def show_gpu(monkeypatch: pytest.MonkeyPatch, facts: GpuSetup) -> None:
    monkeypatch.setattr(gpu, "inspect_gpus", lambda: facts)


def test_usable_gpu_exits_with_0(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    show_gpu(monkeypatch, GOOD)
    gpu.validate_gpu(as_json=True)
    answer = json.loads(capsys.readouterr().out)
    assert (answer["usable"], answer["instead"]) == (True, None)


def test_machine_without_gpu_exits_with_9_and_says_what_runs_instead(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    show_gpu(monkeypatch, replace(GOOD, driver=GpuReport((), "No driver."), torch=None))
    with pytest.raises(typer.Exit) as left:
        gpu.validate_gpu()
    assert left.value.exit_code == gpu.NO_GPU_EXIT_CODE
    shown_text = capsys.readouterr()
    assert "fail  driver" in shown_text.out
    assert "scripts/setup musicgen" in shown_text.out
    assert "the composer needs no GPU" in shown_text.err


def test_inspection_needs_no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "services.generation.musicgen.gpu_probe", raising=False)
    facts = gpu.inspect_gpus()
    assert facts.torch is None
    assert "does not load" in str(facts.torch_problem)


def test_benchmark_is_a_table_on_a_terminal(home) -> None:
    result = home.call("benchmark", "--model", "tone", "--seconds", "1,2", width=120)
    headings, first, second = result.stdout.splitlines()
    assert headings.split()[:3] == ["model", "audio", "requests"]
    assert first.split()[:4] == ["tone", "1", "s", "1"]
    assert second.split()[:4] == ["tone", "2", "s", "1"]
    assert "RTF" in result.stderr


def test_benchmark_json_describes_the_machine(home) -> None:
    answer = json.loads(home.call("benchmark", "--model", "tone", "--seconds=1", "--json").stdout)
    assert list(answer) == ["machine", "random_weights", "rtf", "measurements"]
    assert platform.machine() in answer["machine"]


def test_model_of_the_settings_is_the_default(home) -> None:
    home.environment["DGX_MUSIC_MODEL_NAME"] = "tone"
    assert json.loads(home.call("models", "test", "--json").stdout)["model"] == "tone"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("models", "test", "tune"), 4, "Did you mean 'tone'?"),
        (("models", "test", "mute"), 5, "silent"),
        (("benchmark", "--model", "tune"), 4, "Did you mean 'tone'?"),
        (("benchmark", "--model", "tone", "--requests", "0"), 2, "--requests"),
        (("benchmark", "--model", "tone", "--requests", "257"), 2, "--requests"),
        (("benchmark", "--model", "tone", "--against-transformers"), 2, "not 'tone'"),
    ],
)
def test_impossible_trial_is_refused(home, arguments, code, words) -> None:
    result = home.call(*arguments)
    assert result.returncode == code
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_benchmark_without_torch_says_what_to_install(home, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, trial.ORACLE, None)
    result = home.call("benchmark", "--model", "musicgen-tone", "--random-weights")
    assert result.returncode == 4
    assert "scripts/setup musicgen" in result.stderr
