"""Tempo and key of music with known answers; benchmarks.analysis is the long version."""

import subprocess
import sys

import numpy as np
import pytest

from benchmarks import instruments
from benchmarks.songs import HELD_OUT, TUNED, write_song
from services.audio.analysis import analyse, analyse_file
from services.audio.key import PITCH_CLASSES
from services.audio.reading import UnreadableAudioError
from services.audio.wav import write_wav
from services.generation.composer.engine import ComposerEngine
from services.generation.engine import GenerationParams

pytestmark = pytest.mark.integration

SONGS = {
    "rock": 0, "house": 1, "boom bap": 2, "waltz": 3, "synth pop": 4,
    "disco": 0, "folk": 1, "swing": 2, "solo piano": 3, "minuet": 4,
}  # fmt: skip
PROMPTS = {
    "deep house at 123 BPM in A minor": (123.0, "A minor"),
    "trap beat at 141 BPM in F# minor": (141.0, "F# minor"),
    "synthwave at 104 BPM in G major": (104.0, "G major"),
}
PEAK_KILOBYTES = """
import sys
from services.audio.analysis import analyse_file
analyse_file(sys.argv[1])
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.fixture(scope="module")
def analyses():
    """Name -> (true BPM, true key, analysis without a hint, analysis with a hint 5 % too high)."""
    found = {}
    for style, number in SONGS.items():
        song = write_song(style, (TUNED | HELD_OUT)[style], number, seconds=20.0)
        audio, rate = instruments.play(song), instruments.RATE
        key = f"{PITCH_CLASSES[song.tonic]} {song.mode}"
        found[style] = song.bpm, key, analyse(audio, rate), analyse(audio, rate, song.bpm * 1.05)
    for prompt, (bpm, key) in PROMPTS.items():
        params = GenerationParams(prompt=prompt, duration_seconds=16.0, seed=3)
        take = ComposerEngine().render(params, lambda *_: None, lambda: False)
        audio, rate = take.audio, take.sample_rate
        found[prompt] = bpm, key, analyse(audio, rate), analyse(audio, rate, bpm * 1.05)
    return found


def test_hinted_tempo_is_exact(analyses):
    for name, (bpm, _, _, hinted) in analyses.items():
        assert hinted.tempo.bpm == pytest.approx(bpm, abs=0.1), name
        assert hinted.tempo.hint_supported, name
        assert hinted.tempo.confidence > 0.7, name


def test_tempo_or_a_multiple_is_found_without_a_hint(analyses):
    exact = []
    for name, (bpm, _, blind, _) in analyses.items():
        factor = min((1 / 3, 1 / 2, 1, 2, 3), key=lambda f: abs(blind.tempo.bpm - f * bpm))
        assert blind.tempo.bpm == pytest.approx(factor * bpm, abs=0.2), name
        exact.append(factor == 1)
    assert np.mean(exact) >= 0.75


def test_beats_match_the_played_beats(analyses):
    # It imports SciPy's statistics, for seconds, of which no other process of the tests has need.
    import mir_eval

    scores = [
        mir_eval.beat.f_measure(np.arange(0.0, 20.0, 60 / bpm), np.array(hinted.tempo.beats))
        for bpm, _, _, hinted in analyses.values()
    ]
    assert np.mean(scores) > 0.85


def test_waltz_and_minuet_have_three_beats_and_the_rest_four(analyses):
    three = {name for name, (*_, hinted) in analyses.items() if hinted.tempo.beats_per_bar == 3}
    assert three == {"waltz", "minuet"}


def test_estimated_keys_reach_the_required_score(analyses):
    import mir_eval

    scores = [
        mir_eval.key.weighted_score(key, blind.key.name) for _, key, blind, _ in analyses.values()
    ]
    assert np.mean(scores) >= 0.88


def test_analysis_of_a_file_equals_analysis_of_its_samples(tmp_path):
    song = write_song("disco", HELD_OUT["disco"], 1, seconds=12.0)
    audio = instruments.play(song)
    path = tmp_path / "disco.wav"
    write_wav(path, audio, instruments.RATE, bit_depth="FLOAT")
    of_file, of_samples = analyse_file(path, song.bpm), analyse(audio, instruments.RATE, song.bpm)
    assert of_file.features.to_dict() == pytest.approx(of_samples.features.to_dict(), rel=1e-3)
    assert of_file.loudness.to_dict() == pytest.approx(of_samples.loudness.to_dict(), abs=1e-3)
    assert of_file.tempo.beats == pytest.approx(of_samples.tempo.beats, abs=1e-3)
    assert of_file.key.name == of_samples.key.name


def test_missing_and_unreadable_files_are_refused(tmp_path):
    text = tmp_path / "text.wav"
    text.write_text("no audio")
    with pytest.raises(FileNotFoundError):
        analyse_file(tmp_path / "nowhere.wav")
    with pytest.raises(UnreadableAudioError):
        analyse_file(text)


@pytest.mark.nightly
def test_ten_minutes_are_analysed_in_bounded_memory(tmp_path):
    song = write_song("disco", HELD_OUT["disco"], 1, seconds=20.0)
    path = tmp_path / "long.wav"
    write_wav(path, np.tile(instruments.play(song), 30), instruments.RATE)
    done = subprocess.run(
        [sys.executable, "-c", PEAK_KILOBYTES, str(path)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert int(done.stdout) < 400 * 1024
