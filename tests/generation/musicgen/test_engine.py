import json
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from services.config import Settings
from services.errors import CancelledError, EngineError, InvalidRequestError
from services.generation.engine import EngineFacts, GenerationParams
from services.generation.musicgen.catalogue import MODELS
from services.generation.musicgen.checkpoint.checkpoints import RECORD, open_checkpoint
from services.generation.musicgen.engine import MusicGenEngine, _ProgressReporter
from services.generation.musicgen.loop.compute_thread import ComputeThread
from services.generation.musicgen.loop.request import Sampling
from tests.generation.musicgen.checkpoints import write_checkpoint

RATE = 32_000
ASKED = GenerationParams(prompt="a beat with bass", duration_seconds=1.3, seed=7)


def _facts(channels):
    return EngineFacts(
        name="musicgen-tiny",
        version="1",
        description="",
        output_licence="CC-BY-NC-4.0",
        sample_rate=RATE,
        channels=channels,
        shortest_seconds=1.0,
        longest_seconds=300.0,
    )


@pytest.fixture(scope="module")
def engine_of(tmp_path_factory):
    engines = {}

    def make(kind):
        if kind not in engines:
            folder = tmp_path_factory.mktemp(kind)
            write_checkpoint(folder, kind)
            settings = Settings(use_gpu=False, worker_concurrency=4, cpu_precision="fp32")
            channels = 2 if "stereo" in kind else 1
            engines[kind] = MusicGenEngine.from_checkpoint(
                open_checkpoint(folder), _facts(channels), settings
            )
        return engines[kind]

    yield make
    for engine in engines.values():
        engine.close()


def _render(engine, request, should_stop=lambda: False):
    reports = []
    rendered = engine.render(request, lambda *report: reports.append(report), should_stop)
    return rendered, reports


@pytest.mark.parametrize(("kind", "channels"), [("mono", 1), ("stereo", 2), ("melody", 1)])
def test_audio_is_as_long_as_asked_for_and_finite(engine_of, kind, channels):
    rendered, reports = _render(engine_of(kind), ASKED)
    assert rendered.audio.shape == (channels, round(1.3 * RATE))
    assert rendered.audio.dtype == np.float32
    assert np.isfinite(rendered.audio).all()
    assert np.abs(rendered.audio).max() > 0
    assert rendered.seed == 7
    stages = [stage for stage, _ in reports]
    fractions = [fraction for stage, fraction in reports if stage == "generating"]
    assert stages[0] == "encoding_prompt"
    assert fractions == sorted(fractions)
    assert 0.9 < fractions[-1] <= 1


def test_a_seed_gives_the_same_audio_in_any_batch(engine_of):
    engine = engine_of("mono")
    alone, _ = _render(engine, ASKED)
    others = [replace(ASKED, seed=seed, duration_seconds=1.0 + seed / 10) for seed in range(3)]
    found = {}

    def render(name, request):
        found[name], _ = _render(engine, request)

    threads = [
        threading.Thread(target=render, args=(number, request))
        for number, request in enumerate([*others, ASKED])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.array_equal(found[3].audio, alone.audio)
    assert not np.array_equal(found[0].audio[:, :RATE], alone.audio[:, :RATE])


def test_a_continued_file_changes_the_result_and_is_not_part_of_it(engine_of, tmp_path):
    engine = engine_of("mono")
    noise = np.random.default_rng(0).normal(0, 0.1, RATE * 2)
    soundfile.write(tmp_path / "take.wav", noise, RATE)
    plain, _ = _render(engine, ASKED)
    after, _ = _render(engine, replace(ASKED, continue_from=tmp_path / "take.wav"))
    assert after.audio.shape == plain.audio.shape
    assert not np.array_equal(after.audio, plain.audio)


def test_a_melody_changes_the_result(engine_of, tmp_path):
    engine = engine_of("melody")
    time = np.arange(2 * RATE) / RATE
    soundfile.write(tmp_path / "tune.wav", np.sin(2 * np.pi * 440 * time) / 2, RATE)
    plain, _ = _render(engine, ASKED)
    led, _ = _render(engine, replace(ASKED, melody=tmp_path / "tune.wav"))
    assert not np.array_equal(led.audio, plain.audio)


def test_a_model_without_melody_names_one_with_melody(engine_of, tmp_path):
    with pytest.raises(InvalidRequestError, match="musicgen-melody can"):
        _render(engine_of("mono"), replace(ASKED, melody=tmp_path / "tune.wav"))


@pytest.mark.parametrize("field", ["melody", "continue_from"])
def test_a_file_that_is_not_audio_is_refused(engine_of, tmp_path, field):
    (tmp_path / "text.wav").write_text("not audio")
    with pytest.raises(InvalidRequestError, match=r"The file (of the melody|to continue)"):
        _render(engine_of("melody"), replace(ASKED, **{field: tmp_path / "text.wav"}))


@pytest.mark.parametrize(("kind", "room"), [("mono", 512), ("melody", 492)])
def test_a_prompt_that_is_too_long_is_refused_and_the_engine_keeps_working(engine_of, kind, room):
    engine = engine_of(kind)
    for words in (room, 2 * room):
        with pytest.raises(InvalidRequestError, match=rf"takes {room} at most. Use fewer words"):
            _render(engine, replace(ASKED, prompt="beat " * words))
    made, _ = _render(engine, replace(ASKED, prompt="beat " * (room - 1)))
    assert np.isfinite(made.audio).all()


@pytest.mark.parametrize("seconds", [0.5, 301.0])
def test_a_duration_outside_the_limits_is_refused(engine_of, seconds):
    with pytest.raises(InvalidRequestError, match="1 to 300 seconds"):
        _render(engine_of("mono"), replace(ASKED, duration_seconds=seconds))


@pytest.mark.parametrize("after", [0, 1, 5])
def test_a_cancelled_request_does_not_affect_the_next(engine_of, after):
    engine = engine_of("mono")
    asked = iter(range(10**6))
    with pytest.raises(CancelledError):
        _render(
            engine,
            replace(ASKED, duration_seconds=60.0),
            should_stop=lambda: next(asked) >= after,
        )
    again, _ = _render(engine, ASKED)
    alone, _ = _render(engine, ASKED)
    assert np.array_equal(again.audio, alone.audio)


@pytest.mark.parametrize(("revision", "version"), [("ab12cd34ef" * 4, "1+ab12cd34"), (None, "1")])
def test_the_version_names_the_installed_commit_and_not_the_pinned_one(
    tmp_path, monkeypatch, revision, version
):
    write_checkpoint(tmp_path, "mono")
    if revision is not None:
        (tmp_path / RECORD).write_text(json.dumps({"revision": revision}))
    monkeypatch.setattr(
        "services.generation.musicgen.engine.find_checkpoint", lambda *_: open_checkpoint(tmp_path)
    )
    settings = Settings(use_gpu=False, worker_concurrency=1, cpu_precision="fp32")
    loaded = MusicGenEngine.load(MODELS["musicgen-small"], settings)
    loaded.close()
    assert loaded.facts.version == version


def test_the_label_names_precision_and_back_end(engine_of):
    assert engine_of("mono").label.startswith("float32, ")


def test_the_result_names_the_back_end_and_counts_the_steps(engine_of):
    engine = engine_of("mono")
    rendered, _ = _render(engine, ASKED)
    assert rendered.understood == {"backend": engine.label}
    assert rendered.steps.count == 65 + 3
    assert rendered.steps.seconds > 0


def test_a_melody_conditions_each_window_from_its_own_start(engine_of, tmp_path):
    engine = engine_of("melody")
    time = np.arange(20 * RATE) / RATE
    tune = (
        np.where(time < 10, np.sin(2 * np.pi * 440 * time), np.sin(2 * np.pi * 261.63 * time)) / 2
    )
    soundfile.write(tmp_path / "tune.wav", tune, RATE)
    asked = replace(ASKED, duration_seconds=50.0, melody=tmp_path / "tune.wav")
    prepared = engine._prepare(asked)
    assert len(prepared.conditioning) == 3
    first, second, _ = (each.states for each in prepared.conditioning)
    assert first.shape == second.shape
    assert not torch.equal(first, second)
    assert torch.equal(first[20:], second[20:])  # the prompt is the same


def test_a_continuation_and_a_melody_together_start_the_melody_after_the_file(engine_of, tmp_path):
    engine = engine_of("melody")
    time = np.arange(2 * RATE) / RATE
    soundfile.write(tmp_path / "tune.wav", np.sin(2 * np.pi * 440 * time) / 2, RATE)
    asked = replace(ASKED, melody=tmp_path / "tune.wav", continue_from=tmp_path / "tune.wav")
    prepared = engine._prepare(asked)
    assert prepared.prefix_frames == 100
    assert prepared.frames == 100 + 65
    rendered, _ = _render(engine, asked)
    assert rendered.audio.shape == (1, round(1.3 * RATE))


def test_every_sampling_parameter_reaches_the_loop(engine_of):
    asked = replace(ASKED, seed=11, temperature=0.7, top_k=9, top_p=0.4, cfg_coef=5.0)
    sampling = engine_of("mono")._prepare(asked).sampling
    assert sampling == Sampling(seed=11, guidance=5.0, temperature=0.7, top_k=9, top_p=0.4)


def _load(folder):
    write_checkpoint(folder, "mono")
    settings = Settings(use_gpu=False, worker_concurrency=1, cpu_precision="fp32")
    return MusicGenEngine.from_checkpoint(open_checkpoint(folder), _facts(1), settings)


def test_a_closed_engine_refuses_requests(tmp_path):
    engine = _load(tmp_path)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="shut down"):
        _render(engine, ASKED)


def test_a_load_that_fails_ends_its_thread(tmp_path, monkeypatch):
    closed = []

    class Watched(ComputeThread):
        def close(self):
            closed.append(self)
            super().close()

    monkeypatch.setattr("services.generation.musicgen.engine.ComputeThread", Watched)
    monkeypatch.setattr(
        "services.generation.musicgen.engine.choose_backend",
        lambda *_, **__: pytest.fail("the checkpoint is damaged"),
    )
    with pytest.raises(pytest.fail.Exception, match="damaged"):
        _load(tmp_path)
    assert len(closed) == 1


class Moving:
    """A handle whose progress is set by the test."""

    def __init__(self, total):
        self.done, self.total = 0, total

    def progress(self):
        return SimpleNamespace(steps_done=self.done, steps_total=self.total)


def test_progress_never_goes_back_and_leaves_a_share_for_the_codec():
    handle, reports = Moving(40), []
    reporter = _ProgressReporter(handle, lambda *report: reports.append(report))
    for done in (0, 20, 15, 40):
        handle.done = done
        reporter.report()
    assert reports == [("generating", share) for share in (0.0, 0.475, 0.475, 0.95)]
