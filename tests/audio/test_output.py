from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import soxr

from services.audio import output
from services.audio.encoding import FORMATS
from services.audio.facts import TakeFacts
from services.audio.loudness import measure_loudness
from services.audio.output import OutputFormat, write_mastered_output, write_output
from services.audio.reading import UnreadableAudioError
from services.audio.sources import ArraySource
from services.audio.tags import read_facts

RATE = 48_000


def noise(seconds=0.5, level=0.1):
    rng = np.random.default_rng(4)
    return (rng.standard_normal((2, round(seconds * RATE))) * level).astype(np.float32)


def make_format(name, rate=RATE, **changes):
    output_format = OutputFormat(
        audio_format=FORMATS[name],
        sample_rate=rate,
        bit_depth="PCM_16" if FORMATS[name].bit_depths else None,
        dither=False,
        facts=None,
    )
    return replace(output_format, **changes)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", FORMATS)
def test_output_appears_only_when_published(tmp_path, name):
    path = tmp_path / f"take.{name}"
    with ExitStack() as stack:
        found = write_output(stack, path, ArraySource(noise(), RATE), make_format(name))
        assert not path.exists()
        found.file.publish()
    assert names_in(tmp_path) == [path.name]
    assert found.file.written_file.bytes == path.stat().st_size
    assert (found.flags, found.gain_reduction_db) == ((), 0.0)


@pytest.mark.parametrize("name", ["wav", "flac"])
def test_unpublished_output_is_deleted(tmp_path, name):
    with ExitStack() as stack:
        write_output(stack, tmp_path / "take", ArraySource(noise(), RATE), make_format(name))
        assert len(names_in(tmp_path)) == 1
    assert not names_in(tmp_path)


@pytest.mark.parametrize("name", FORMATS)
def test_output_is_resampled_to_the_rate_of_the_format(tmp_path, name):
    path = tmp_path / f"take.{name}"
    with ExitStack() as stack:
        found = write_output(stack, path, ArraySource(noise(), RATE), make_format(name, 24_000))
        found.file.publish()
    assert soundfile.info(path).samplerate == 24_000
    assert soundfile.info(path).frames == found.file.written_file.frames == 12_000


@pytest.mark.parametrize("name", FORMATS)
def test_audio_without_samples_at_the_new_rate_is_refused(tmp_path, name):
    source = ArraySource(np.ones((1, 1), np.float32), 192_000)
    with ExitStack() as stack, pytest.raises(ValueError, match="too short: it has no samples at"):
        write_output(stack, tmp_path / f"take.{name}", source, make_format(name, 8_000))
    assert not names_in(tmp_path)


@pytest.mark.parametrize("name", ["flac", "ogg"])
def test_file_that_cannot_be_decoded_again_is_not_published(tmp_path, monkeypatch, name):
    def refuse(_path):
        raise UnreadableAudioError("no header")

    monkeypatch.setattr(output, "open_audio", refuse)
    with ExitStack() as stack, pytest.raises(RuntimeError, match=r"cannot be read \(no header\)"):
        write_output(stack, tmp_path / "a", ArraySource(noise(), RATE), make_format(name))
    assert not names_in(tmp_path)


def test_file_with_missing_samples_is_not_published(tmp_path, monkeypatch):
    original = output.encode
    monkeypatch.setattr(output, "encode", lambda *args, **options: original(*args, **options) + 1)
    message = "only 24000 of 24001 samples of the file can be read"
    with ExitStack() as stack, pytest.raises(RuntimeError, match=message):
        write_output(stack, tmp_path / "a", ArraySource(noise(), RATE), make_format("flac"))
    assert not names_in(tmp_path)


def test_facts_get_the_loudness_of_the_decoded_file(tmp_path):
    path, facts = tmp_path / "take.ogg", TakeFacts(seed=3)
    with ExitStack() as stack:
        source = ArraySource(noise(), RATE)
        found = write_output(stack, path, source, make_format("ogg", facts=facts))
        found.file.publish()
    frames, _ = soundfile.read(path, dtype="float32")
    assert found.loudness == measure_loudness(frames.T, RATE)
    assert read_facts(path) == replace(facts, loudness=found.loudness)


def master_to_ogg(path, audio, target_lufs=-9.0):
    with ExitStack() as stack:
        found = write_mastered_output(
            stack,
            path,
            ArraySource(audio, RATE),
            make_format("ogg"),
            target_lufs=target_lufs,
            true_peak_dbtp=-1.0,
        )
        found.file.publish()
    return found


def test_attenuation_keeps_the_ceiling_without_remastering(tmp_path, monkeypatch):
    monkeypatch.setattr(output, "_MAX_REMASTERS", 0)
    found = master_to_ogg(tmp_path / "take.ogg", noise(), target_lufs=-5.0)
    assert found.loudness.true_peak_dbtp <= -1.0
    assert found.gain_reduction_db > 0.0


@pytest.mark.parametrize(
    ("level", "flags"), [(0.0, ("silent",)), (1e-5, ("below_gate",))], ids=["silence", "noise"]
)
def test_levels_of_silence_are_kept_in_lossy_formats(tmp_path, level, flags):
    found = master_to_ogg(tmp_path / "take.ogg", noise(1.0, level))
    assert found.flags == flags
    assert found.loudness.true_peak_dbtp < -60.0


@pytest.mark.parametrize("name", ["mp3", "ogg"])
def test_decoded_file_keeps_the_ceiling_between_32_times_as_many_samples(tmp_path, name):
    beat = np.arange(RATE) / RATE % 0.25
    bright = np.diff(np.random.default_rng(3).standard_normal((1, RATE + 2)), n=2)
    source = ArraySource((bright * np.exp(-50 * beat) * 0.1).astype(np.float32), RATE)
    path = tmp_path / f"take.{name}"
    with ExitStack() as stack:
        write_mastered_output(
            stack, path, source, make_format(name), target_lufs=-14.0, true_peak_dbtp=-1.0
        ).file.publish()
    decoded, _ = soundfile.read(path, dtype="float32")
    fine = soxr.resample(decoded, RATE, 32 * RATE, quality="VHQ")
    assert 20 * np.log10(np.abs(fine).max()) <= -1.0
