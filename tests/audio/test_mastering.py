import json
import math

import numpy as np
import pyebur128
import pytest
import soxr
from hypothesis import given
from hypothesis import strategies as st

from services.audio import Mastered, MasterReport, master, mastering, measure_loudness
from services.audio.mastering import check_target, plan_master
from services.audio.reading import open_audio
from services.audio.wav import write_wav

RATE = 48_000


def drums(seed=1, rate=RATE, seconds=4.0, channels=2):
    """A kick and a noise snare: peaks 15 to 20 dB over the loudness."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(rate * seconds)) / rate
    beat = time % 0.5
    kick = np.sin(2 * np.pi * (50 * beat + 7 * (1 - np.exp(-30 * beat)))) * np.exp(-12 * beat)
    snare = rng.standard_normal((channels, time.size)) * np.exp(-40 * ((time + 0.25) % 0.5))
    return (0.8 * kick + 0.4 * snare).astype(np.float32)


def noise(seed=1, rate=RATE, seconds=3.0, level=0.05):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((2, round(rate * seconds))) * level).astype(np.float32)


def libebur128(signal, rate):
    """Integrated loudness and true peak in LUFS and dBTP."""
    mode = pyebur128.MeasurementMode.MODE_I | pyebur128.MeasurementMode.MODE_TRUE_PEAK
    state = pyebur128.R128State(len(signal), rate, mode)
    frames = np.ascontiguousarray(signal.T, np.float64)
    state.add_frames(frames.ravel(), len(frames))
    peak = max(pyebur128.get_true_peak(state, channel) for channel in range(len(signal)))
    return pyebur128.get_loudness_global(state), 20 * math.log10(peak)


@pytest.mark.parametrize("target", [-23.0, -16.0, -14.0])
def test_signal_without_high_peaks_is_only_scaled(target):
    signal = noise()
    mastered = master(signal, RATE, target)
    assert mastered.gain_reduction_db == 0.0
    assert mastered.flags == ()
    assert mastered.integrated_lufs == pytest.approx(target, abs=1e-3)
    assert measure_loudness(mastered.audio, RATE).integrated_lufs == pytest.approx(target, abs=0.01)
    gain = np.float32(10 ** (mastered.gain_db / 20))
    assert np.array_equal(mastered.audio, signal * gain)


def test_high_peaks_are_limited_and_the_target_is_reached():
    mastered = master(drums(), RATE)
    assert 1.0 < mastered.gain_reduction_db < 6.0
    assert mastered.flags == ()
    assert mastered.integrated_lufs == pytest.approx(-16.0, abs=0.1)
    assert mastered.true_peak_dbtp <= -1.0


@pytest.mark.parametrize("rate", [32_000, 44_100, 48_000])
@pytest.mark.parametrize("target", [-18.0, -16.0, -14.0])
def test_report_agrees_with_two_meters(rate, target):
    mastered = master(drums(rate=rate), rate, target)
    own = measure_loudness(mastered.audio, rate)
    loudness, peak = libebur128(mastered.audio, rate)
    assert mastered.integrated_lufs == pytest.approx(own.integrated_lufs, abs=1e-3)
    assert mastered.true_peak_dbtp == pytest.approx(own.true_peak_dbtp, abs=1e-3)
    assert mastered.loudness.loudness_range_lu == pytest.approx(own.loudness_range_lu, abs=1e-3)
    assert mastered.integrated_lufs == pytest.approx(loudness, abs=0.02)
    assert peak <= -1.0


def cymbals(seed, rate):
    rng = np.random.default_rng(seed)
    time = np.arange(rate) / rate
    bright = np.diff(rng.standard_normal(time.size), n=2, prepend=[0.0, 0.0])
    return (bright * np.exp(-rng.uniform(20, 60) * (time % 0.25)) * 0.1).astype(np.float32)


@pytest.mark.parametrize("rate", [32_000, 48_000, 192_000])
def test_the_ceiling_holds_between_32_times_as_many_samples(rate):
    for seed in range(4):
        mastered = master(cymbals(seed, rate), rate, -14.0)
        fine = soxr.resample(mastered.audio[0], rate, 32 * rate, quality="VHQ")
        assert mastered.gain_reduction_db > 1.0
        assert 20 * math.log10(np.abs(fine).max()) <= -1.0


def test_limiting_stops_at_12_db_and_is_flagged():
    clicks = noise(level=0.001)
    clicks[:, :: RATE // 3] = 1.0
    mastered = master(clicks, RATE)
    assert mastered.flags == ("peak_limited",)
    assert mastered.gain_reduction_db == pytest.approx(12.0, abs=0.3)
    assert mastered.integrated_lufs < -16.1
    assert mastered.true_peak_dbtp <= -1.0


def test_loud_clipped_mix_is_attenuated():
    mastered = master(np.clip(noise(level=3.0), -1, 1), RATE)
    assert mastered.integrated_lufs == pytest.approx(-16.0, abs=0.01)
    assert mastered.gain_db < -10
    assert mastered.gain_reduction_db == 0.0


def test_silence_is_kept_and_flagged():
    signal = np.zeros((2, RATE), np.float32)
    mastered = master(signal, RATE)
    assert mastered.audio is signal
    assert mastered.flags == ("silent",)
    assert mastered.integrated_lufs == mastered.true_peak_dbtp == -math.inf
    assert mastered.gain_db == 0.0


def test_signal_under_the_gate_is_kept_and_flagged():
    signal = noise(level=1e-5)
    mastered = master(signal, RATE)
    assert mastered.audio is signal
    assert mastered.flags == ("below_gate",)
    assert mastered.integrated_lufs == -math.inf
    assert mastered.true_peak_dbtp == pytest.approx(-85, abs=5)


@pytest.mark.parametrize("samples", [1, 7, 480, 19_199])
def test_short_clips_are_measured_ungated_and_flagged(samples):
    signal = (np.sin(0.13 * np.arange(1, samples + 1)) * 0.03).astype(np.float32)
    mastered = master(signal, RATE)
    assert "short_clip" in mastered.flags
    assert mastered.true_peak_dbtp <= -1.0
    if "peak_limited" not in mastered.flags:
        assert mastered.integrated_lufs == pytest.approx(-16.0, abs=0.1)


def test_a_gain_moves_quiet_passages_across_the_gate():
    signal = np.concatenate([noise(seconds=2, level=0.05), noise(seconds=4, level=7e-5)], axis=1)
    mastered = master(signal, RATE, -55.0)
    assert measure_loudness(mastered.audio, RATE).integrated_lufs == pytest.approx(-55.0, abs=0.01)


def test_master_without_a_target_only_measures():
    signal = drums() * np.float32(3)
    mastered = master(signal, RATE, None)
    assert mastered.audio is signal
    assert mastered.true_peak_dbtp > 0
    assert (mastered.gain_db, mastered.gain_reduction_db, mastered.flags) == (0.0, 0.0, ())


def test_input_is_not_modified():
    signal = drums()
    before = signal.copy()
    master(signal, RATE)
    master(signal * np.float32(0.1), RATE)
    assert np.array_equal(signal, before)


def test_mastering_is_repeatable():
    assert np.array_equal(master(drums(), RATE).audio, master(drums(), RATE).audio)


def test_mastering_a_master_changes_almost_nothing():
    once = master(drums(), RATE)
    twice = master(once.audio, RATE)
    assert abs(twice.gain_db) < 0.1
    assert twice.gain_reduction_db < 0.1


def test_mono_stays_mono():
    assert master(drums(channels=1), RATE).audio.shape == (1, 4 * RATE)


def test_report_is_json_ready():
    figures = json.loads(json.dumps(master(np.zeros(RATE), RATE).to_dict(), allow_nan=False))
    assert figures == {
        "integrated_lufs": None,
        "momentary_max_lufs": None,
        "short_term_max_lufs": None,
        "loudness_range_lu": 0.0,
        "true_peak_dbtp": None,
        "sample_peak_dbfs": None,
        "gain_db": 0.0,
        "gain_reduction_db": 0.0,
        "flags": ["silent"],
    }


@pytest.mark.parametrize("target", [-60.1, 0.1, math.nan, math.inf, -math.inf])
def test_targets_out_of_range_are_refused(target):
    with pytest.raises(ValueError, match="target loudness"):
        master(noise(), RATE, target)


@pytest.mark.parametrize("ceiling", [-40.1, 0.1, math.nan])
def test_ceilings_out_of_range_are_refused(ceiling):
    with pytest.raises(ValueError, match="true-peak ceiling"):
        check_target(-16.0, ceiling)


def test_the_audio_and_the_rate_are_checked():
    with pytest.raises(ValueError, match="NaN"):
        master(np.full(100, np.nan), RATE)
    with pytest.raises(ValueError, match="sample rate"):
        master(noise(), 1000)


def material(seed, rate, seconds, channels):
    """Random material between a click track and loud noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(rate * seconds)) / rate
    signal = rng.standard_normal((channels, time.size)) * 10 ** rng.uniform(-3, 0)
    if rng.random() < 0.5:
        signal *= np.exp(-(time % 0.25) * rng.uniform(5, 60))
    if rng.random() < 0.5:
        places = rng.integers(0, time.size, 12)
        signal[:, places] += rng.standard_normal((channels, 12)) * 10 ** rng.uniform(-2, 0.5)
    if rng.random() < 0.3:
        signal += np.sin(2 * np.pi * rng.uniform(20, rate / 2.01) * time) * 10 ** rng.uniform(-2, 0)
    return signal.astype(np.float32)


@given(
    seed=st.integers(0, 2**32 - 1),
    rate=st.sampled_from([8_000, 32_000, 44_100, 48_000]),
    seconds=st.sampled_from([0.1, 0.5, 1.5]),
    channels=st.sampled_from([1, 2]),
    target=st.sampled_from([-23.0, -16.0, -9.0]),
    ceiling=st.sampled_from([-0.1, -1.0, -10.0]),
)
def test_written_master_keeps_its_levels(
    tmp_path_factory, seed, rate, seconds, channels, target, ceiling
):
    mastered = master(material(seed, rate, seconds, channels), rate, target, ceiling)
    path = tmp_path_factory.mktemp("master") / "take.wav"
    header = 44
    write_wav(path, mastered.audio, rate)
    words = np.frombuffer(path.read_bytes()[header:], "<i2")
    written = (words.reshape(-1, channels).T / 32768).astype(np.float32)
    assert measure_loudness(written, rate).true_peak_dbtp <= ceiling
    assert libebur128(written, rate)[1] <= ceiling
    if "peak_limited" not in mastered.flags:
        assert mastered.integrated_lufs == pytest.approx(target, abs=0.1)
    else:
        assert mastered.gain_reduction_db > 6.0


def test_mastered_has_all_fields_of_the_report():
    assert issubclass(Mastered, MasterReport)
    assert set(MasterReport.__dataclass_fields__) | {"audio", "plan"} == set(
        Mastered.__dataclass_fields__
    )


def test_failed_search_still_keeps_the_ceiling(monkeypatch):
    monkeypatch.setattr(mastering, "_ROUNDS", 1)
    monkeypatch.setattr(mastering, "_MARGIN_DB", -0.5)
    mastered = master(drums(), RATE)
    own = measure_loudness(mastered.audio, RATE)
    assert own.true_peak_dbtp <= -1.0
    assert mastered.true_peak_dbtp == pytest.approx(own.true_peak_dbtp, abs=1e-3)
    assert mastered.integrated_lufs == pytest.approx(own.integrated_lufs, abs=1e-3)
    assert "peak_limited" in mastered.flags


@pytest.mark.parametrize("rate", [32_000, 48_000])
def test_one_round_of_search_suffices_for_drums(monkeypatch, rate):
    rounds = []
    run = mastering.InputGainSearch.run

    def counted(self, aim_lufs, margin_db):
        rounds.append(aim_lufs)
        return run(self, aim_lufs, margin_db)

    monkeypatch.setattr(mastering.InputGainSearch, "run", counted)
    for target in (-16.0, -15.0, -14.0):
        master(drums(rate=rate), rate, target)
    assert len(rounds) == 3


@pytest.mark.parametrize("target", [None, -30.0, -16.0])
def test_file_is_mastered_like_its_array(tmp_path, target):
    signal = drums()
    write_wav(tmp_path / "take.wav", signal, RATE, "FLOAT")
    file = open_audio(tmp_path / "take.wav")
    plan = plan_master(file, target)
    mastered = master(signal, RATE, target)
    found, expected = plan.report.to_dict(), mastered.to_dict()
    assert found.pop("flags") == expected.pop("flags")
    assert found == pytest.approx(expected, rel=1e-5)
    written = np.concatenate(list(plan.apply(file.blocks())), axis=1)
    np.testing.assert_allclose(written, mastered.audio, rtol=0.0, atol=1e-6)
    assert plan.changes_nothing == (target is None)
