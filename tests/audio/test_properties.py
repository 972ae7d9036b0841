"""Any signal is refused without a file, or gives a correct result: 100 examples, nightly 2,000."""

import math

import numpy as np
import pyebur128
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from services.audio import (
    FORMATS,
    AudioExporter,
    AudioMetadataExtractor,
    as_audio,
    compute_peaks,
    master,
    measure_loudness,
    read_facts,
)

RATES = (8_000, 32_000, 44_100, 48_000, 96_000)
DTYPES = ("<f2", ">f2", "<f4", ">f4", "<f8", ">f8", "<i2", ">i2", "<i4", ">i4") * 3 + (
    "<i8",
    "?",
    "<c8",
)
SPOILERS = (None,) * 16 + (math.nan, math.inf, -math.inf, 1e39)


@st.composite
def signals(draw):
    """Arrays of any shape, memory order, type and level; most are audio."""
    shape = draw(
        st.one_of(
            st.tuples(st.sampled_from([1, 2]), st.integers(0, 3_000)),
            st.tuples(st.sampled_from([1, 2]), st.integers(3_000, 40_000)),
            st.tuples(st.integers(1, 3_000)),
            st.sampled_from([(), (0, 5), (3, 400), (8, 400), (400, 2), (2, 2, 50), (2, 1), (1,)]),
        )
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = np.asarray(rng.standard_normal(shape) * 10.0 ** draw(st.floats(-9, 1)))
    spoiler = draw(st.sampled_from(SPOILERS))
    if spoiler is not None and values.size:
        values.flat[draw(st.integers(0, values.size - 1))] = spoiler
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    with np.errstate(all="ignore"):
        if dtype.kind == "i":
            values = np.clip(np.nan_to_num(values), -1, 1) * (
                2.0 ** min(8 * dtype.itemsize - 1, 31)
            )
        signal = np.asarray(values.astype(dtype))
    if signal.ndim == 2 and draw(st.booleans()):
        signal = np.asfortranarray(signal)
    if signal.ndim and draw(st.booleans()):
        signal = np.repeat(signal, 2, axis=-1)[..., ::2]
    return signal


def convert_or_none(signal):
    """Return the audio of a signal, or None if it is refused."""
    try:
        return as_audio(signal)
    except ValueError:
        return None


def libebur128_peak(audio, rate):
    state = pyebur128.R128State(audio.shape[0], rate, pyebur128.MeasurementMode.MODE_TRUE_PEAK)
    frames = np.ascontiguousarray(audio.T, np.float64).ravel()
    state.add_frames(frames, audio.shape[1])
    peaks = [pyebur128.get_true_peak(state, channel) for channel in range(audio.shape[0])]
    return 20 * math.log10(max(peaks)) if max(peaks) > 0 else -math.inf


def check_master(signal, rate, target, ceiling):
    audio = convert_or_none(signal)
    if audio is None:
        with pytest.raises(ValueError, match=r"\w"):
            master(signal, rate, target, ceiling)
        return
    mastered = master(signal, rate, target, ceiling)
    assert mastered.audio.shape == audio.shape
    assert np.isfinite(mastered.audio).all()
    kept = {"silent", "below_gate"} & set(mastered.flags)
    if kept:
        assert np.array_equal(mastered.audio, audio)
        return
    assert measure_loudness(mastered.audio, rate).true_peak_dbtp <= ceiling
    assert libebur128_peak(mastered.audio, rate) <= ceiling
    if "peak_limited" not in mastered.flags:
        assert mastered.integrated_lufs == pytest.approx(target, abs=0.1)


def check_export(folder, signal, rate, name, normalize):
    audio = convert_or_none(signal)
    exporter = AudioExporter()
    path = folder / f"take.{name}"
    if audio is None:
        with pytest.raises(ValueError, match=r"\w"):
            exporter.export(signal, path, rate, normalize=normalize)
        assert not list(folder.iterdir())
        return
    exported = exporter.export(signal, path, rate, normalize=normalize)
    frames, found_rate = soundfile.read(path, dtype="float32", always_2d=True)
    assert [one.name for one in folder.iterdir()] == [path.name]
    assert frames.shape[1] == audio.shape[0]
    assert len(frames) == pytest.approx(audio.shape[1] * found_rate / rate, abs=1)
    assert np.isfinite(frames).all()
    if normalize and not {"silent", "below_gate"} & set(exported.flags):
        assert measure_loudness(frames.T, found_rate).true_peak_dbtp <= -1.0
    assert read_facts(path).prompt is None


def check_analysis(signal, rate):
    audio = convert_or_none(signal)
    if audio is None:
        with pytest.raises(ValueError, match=r"\w"):
            AudioMetadataExtractor().extract_metadata_from_tensor(signal, rate)
        return
    found = AudioMetadataExtractor().extract_metadata_from_tensor(signal, rate)
    assert found["duration_seconds"] == pytest.approx(audio.shape[1] / rate)
    numbers = [value for value in found.values() if isinstance(value, float)]
    assert all(math.isfinite(number) for number in numbers)
    assert 0.0 <= found["bpm_confidence"] <= 1.0
    assert 0.0 <= found["key_confidence"] <= 1.0
    assert compute_peaks(signal, rate).levels[0].length == -(-audio.shape[1] // 256)


mastering = given(
    signal=signals(),
    rate=st.sampled_from(RATES),
    target=st.sampled_from([-23.0, -16.0, -9.0]),
    ceiling=st.sampled_from([-0.1, -1.0, -10.0]),
)
exporting = given(
    signal=signals(),
    rate=st.sampled_from(RATES),
    name=st.sampled_from(sorted(FORMATS)),
    normalize=st.booleans(),
)
analysing = given(signal=signals(), rate=st.sampled_from(RATES))

many = settings(max_examples=2_000, deadline=None)


@mastering
def test_any_signal_is_refused_or_mastered(signal, rate, target, ceiling):
    check_master(signal, rate, target, ceiling)


@exporting
def test_any_signal_is_refused_or_exported(tmp_path_factory, signal, rate, name, normalize):
    check_export(tmp_path_factory.mktemp("export"), signal, rate, name, normalize)


@analysing
def test_any_signal_is_refused_or_analysed(signal, rate):
    check_analysis(signal, rate)


@pytest.mark.nightly
@many
@mastering
def test_2000_masters(signal, rate, target, ceiling):
    check_master(signal, rate, target, ceiling)


@pytest.mark.nightly
@many
@exporting
def test_2000_exports(tmp_path_factory, signal, rate, name, normalize):
    check_export(tmp_path_factory.mktemp("export"), signal, rate, name, normalize)


@pytest.mark.nightly
@many
@analysing
def test_2000_analyses(signal, rate):
    check_analysis(signal, rate)
