"""Rendering of scores: length, stems, repeatability, cancellation."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.errors import CancelledError, EngineError
from services.generation.composer.synth import PATCHES, RenderedScore, render_score
from services.generation.composer.synth.instrument import Instrument
from services.generation.score import Key, Note, Part, Score

RATE = 48_000

DRUMS = Part(
    "drums",
    "drums",
    "kit-house",
    tuple(Note(k / 2, 0.1, 36 if k % 2 == 0 else 42, 0.8) for k in range(8)),
    reverb=0.1,
)
BASS = Part("bass", "bass", "bass-saw", (Note(0.5, 1.0, 33, 0.8),), sidechain=0.6)
CHORDS = Part(
    "chords",
    "chords",
    "keys-rhodes",
    tuple(Note(0.0, 3.0, pitch, 0.7) for pitch in (57, 60, 64)),
    pan=-0.2,
    reverb=0.3,
    delay=0.2,
    brightness=((0.0, 0.3), (4.0, 0.9)),
)
PAD = Part("pad", "pad", "pad-air", (Note(0.0, 4.0, 69, 0.6),), reverb=0.5, sidechain=0.4)
SCORE = Score(120.0, 1, Key(9, "minor"), "house", (), (), (DRUMS, BASS, CHORDS, PAD))


def ignore(stage, fraction):
    pass


def render(score=SCORE, samples=RATE * 5 // 2, seed=5, progress=None, should_stop=None, stems=True):
    return render_score(
        score,
        sample_rate=RATE,
        samples=samples,
        seed=seed,
        progress=progress or ignore,
        should_stop=should_stop or (lambda: False),
        stems=stems,
    )


def digest(rendered):
    parts = hashlib.sha256(rendered.mix.tobytes())
    for name, stem in rendered.stems.items():
        parts.update(name.encode() + stem.tobytes())
    return parts.hexdigest()


@pytest.fixture(scope="module")
def rendered() -> RenderedScore:
    return render()


def test_stems_carry_the_names_of_the_parts_in_order(rendered):
    assert list(rendered.stems) == ["drums", "bass", "chords", "pad"]


def test_mix_and_stems_have_the_requested_length_and_type(rendered):
    for audio in (rendered.mix, *rendered.stems.values()):
        assert audio.shape == (2, RATE * 5 // 2)
        assert audio.dtype == np.float32
        assert np.all(np.isfinite(audio))


def test_stems_sum_to_the_mix(rendered):
    total = np.sum([stem.astype(np.float64) for stem in rendered.stems.values()], axis=0)
    assert np.max(np.abs(total - rendered.mix)) < 1e-6


def test_stems_are_kept_only_when_asked_for(rendered):
    assert render(stems=False).stems == {}
    assert len(rendered.stems) == len(SCORE.parts)


def test_the_mix_is_the_same_to_the_bit_with_and_without_stems(rendered):
    loud = replace(SCORE, parts=tuple(replace(part, gain_db=4.0) for part in SCORE.parts))
    assert render(stems=False).mix.tobytes() == rendered.mix.tobytes()
    assert render(loud, stems=False).mix.tobytes() == render(loud).mix.tobytes()


def test_a_mix_alone_needs_far_less_memory_than_stems():
    parts = 48
    score = replace(SCORE, parts=tuple(replace(PAD, name=f"pad {k}") for k in range(parts)))

    def peak(*, stems):
        tracemalloc.start()
        try:
            render(score, samples=RATE, stems=stems)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    one_stem = 2 * 4 * RATE
    # The rest of the difference is what two threads happen to hold at once.
    assert peak(stems=True) - peak(stems=False) > parts / 2 * one_stem


def test_without_a_temporary_folder_the_mix_is_the_same(rendered, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    assert render(stems=False).mix.tobytes() == rendered.mix.tobytes()


def test_without_space_in_the_temporary_folder_the_mix_is_the_same(rendered):
    """A limit on the size of files stands in for a full disk."""
    script = (
        "import importlib.util as u, resource as r, sys;"
        f"s = u.spec_from_file_location('scores', {__file__!r});"
        "m = u.module_from_spec(s); s.loader.exec_module(m);"
        "m.render(samples=4_800);"
        "r.setrlimit(r.RLIMIT_FSIZE, (100_000, 100_000));"
        "print(m.hashlib.sha256(m.render(stems=False).mix.tobytes()).hexdigest())"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(filter(None, sys.path))},
    )
    assert shown.stdout.strip() == hashlib.sha256(rendered.mix.tobytes()).hexdigest()


def test_every_stem_sounds(rendered):
    for name, stem in rendered.stems.items():
        assert np.std(stem) > 1e-3, name


def test_the_mix_begins_and_ends_at_zero(rendered):
    assert np.max(np.abs(rendered.mix[:, 0])) < 1e-3
    assert np.all(rendered.mix[:, -1] == 0.0)
    assert np.max(np.abs(rendered.mix[:, -10:])) < 1e-4


def test_notes_ring_past_the_last_bar(rendered):
    assert np.std(rendered.mix[:, 2 * RATE : 2 * RATE + 9_600]) > 1e-3


def test_the_mix_has_no_dc_and_mono_lows(rendered):
    spectrum = np.abs(np.fft.rfft(rendered.mix)) ** 2
    side = np.abs(np.fft.rfft(rendered.mix[0] - rendered.mix[1])) ** 2
    below = int(80 * rendered.mix.shape[1] / RATE)
    assert np.max(np.abs(rendered.mix.mean(axis=1))) < 1e-3
    assert side[:below].sum() < 0.01 * spectrum[:, :below].sum()


def test_the_same_seed_gives_the_same_bytes(rendered):
    assert digest(render()) == digest(rendered)


def test_another_seed_gives_other_noise(rendered):
    assert digest(render(seed=6)) != digest(rendered)


def test_another_process_gives_the_same_bytes(rendered):
    """With another hash seed, which would change the order of sets."""
    script = (
        "import importlib.util as u, sys;"
        f"s = u.spec_from_file_location('scores', {__file__!r});"
        "m = u.module_from_spec(s); s.loader.exec_module(m);"
        "print(m.digest(m.render()))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "77", "PYTHONPATH": ":".join(filter(None, sys.path))},
    )
    assert shown.stdout.strip() == digest(rendered)


def test_a_part_sounds_the_same_whatever_plays_beside_it():
    """The parts are too quiet for the bus compressor, which depends on all of them."""
    quiet = replace(PAD, gain_db=-30.0)
    other = replace(CHORDS, gain_db=-30.0)
    alone = render(replace(SCORE, parts=(quiet,)))
    beside = render(replace(SCORE, parts=(other, quiet)))
    assert np.array_equal(alone.stems["pad"], beside.stems["pad"])


def test_progress_is_reported_in_order_up_to_1():
    steps = []
    render(progress=lambda stage, fraction: steps.append((stage, fraction)))
    fractions = [fraction for _, fraction in steps]
    assert [stage for stage, _ in steps][: len(SCORE.parts)] == [
        f"playing {part.name}" for part in SCORE.parts
    ]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


def test_a_render_can_be_cancelled_before_it_starts():
    with pytest.raises(CancelledError):
        render(should_stop=lambda: True)


def test_a_render_can_be_cancelled_between_parts():
    asked = []

    def stop():
        asked.append(True)
        return len(asked) > 2

    parts = tuple(replace(PAD, name=f"pad {k}") for k in range(30))
    steps = []
    with pytest.raises(CancelledError):
        render(
            replace(SCORE, parts=parts),
            progress=lambda *step: steps.append(step),
            should_stop=stop,
        )
    assert len(steps) < 30


def test_an_unknown_patch_is_named_in_the_error():
    wrong = replace(SCORE, parts=(replace(BASS, patch="bass-tuba"),))
    with pytest.raises(EngineError, match="bass-tuba"):
        render(wrong)


def test_an_error_in_a_part_ends_the_render(monkeypatch):
    def fail(part, context):
        raise ZeroDivisionError("no sound")

    monkeypatch.setitem(PATCHES, "broken", Instrument(fail))
    parts = (replace(BASS, patch="broken"), *(replace(PAD, name=f"pad {k}") for k in range(20)))
    steps = []
    with pytest.raises(ZeroDivisionError, match="no sound"):
        render(replace(SCORE, parts=parts), progress=lambda *step: steps.append(step))
    assert steps == []


def test_no_temporary_file_stays_open_after_an_error():
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(CancelledError):
        render(should_stop=lambda: True, stems=False)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_score_without_parts_is_silence():
    for stems in (True, False):
        out = render(replace(SCORE, parts=()), samples=4_800, stems=stems)
        assert out.stems == {}
        assert not np.any(out.mix)


@pytest.mark.parametrize("samples", [1, 31, 1_000])
def test_any_length_can_be_rendered(samples):
    assert render(samples=samples).mix.shape == (2, samples)


def test_another_sample_rate_keeps_time():
    parts = (replace(DRUMS, notes=(Note(1.0, 0.1, 37, 0.8),), reverb=0.0),)
    out = render_score(
        replace(SCORE, parts=parts),
        sample_rate=32_000,
        samples=32_000,
        seed=1,
        progress=ignore,
        should_stop=lambda: False,
    )
    first = int(np.argmax(np.abs(out.mix[0]) > 0.2 * np.max(np.abs(out.mix))))
    assert 16_000 <= first < 16_160


NOTES = st.builds(
    Note,
    start=st.floats(0.0, 3.5),
    duration=st.floats(0.01, 3.0),
    pitch=st.integers(0, 127),
    velocity=st.floats(0.0, 1.0),
    glide_to=st.none() | st.integers(0, 127),
)


@given(
    patch=st.sampled_from(sorted(PATCHES)),
    notes=st.lists(NOTES, min_size=1, max_size=3),
    brightness=st.lists(st.tuples(st.floats(0.0, 4.0), st.floats(0.0, 1.0)), max_size=2),
)
def test_any_score_renders_to_finite_audio(patch, notes, brightness):
    part = Part("x", "lead", patch, tuple(notes), brightness=tuple(sorted(brightness)), reverb=0.2)
    out = render(replace(SCORE, parts=(part,)), samples=RATE)
    assert np.all(np.isfinite(out.mix))
    assert np.max(np.abs(out.mix)) < 4.0
