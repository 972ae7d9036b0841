import io
import tracemalloc

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from services.audio import spectrogram
from services.audio.reading import open_audio
from services.audio.spectrogram import (
    FLOOR_DB,
    HIGHEST_HZ,
    LOWEST_HZ,
    TOP_DB,
    draw_source_spectrogram,
    draw_spectrogram,
    palette,
)

RATE = 48_000


def sine(hertz, seconds=1.0, rate=RATE, gain=1.0):
    return gain * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)


def sweep(seconds):
    """From 30 Hz to 20 kHz, the same number of octaves each second."""
    octaves = np.log(HIGHEST_HZ / LOWEST_HZ)
    times = np.arange(int(seconds * RATE)) / RATE
    turns = LOWEST_HZ * seconds / octaves * np.expm1(octaves * times / seconds)
    return 0.1 * np.sin(2 * np.pi * turns)


def open_png(data):
    return Image.open(io.BytesIO(data))


def shades(audio, rate=RATE, width=60, height=200):
    """Palette indices, `[height, width]`."""
    return np.asarray(open_png(draw_spectrogram(audio, rate, width=width, height=height))).astype(
        int
    )


def level_db(shade):
    return FLOOR_DB + shade / 255 * (TOP_DB - FLOOR_DB)


def row_of(hertz, height=200, highest=HIGHEST_HZ):
    return height * np.log2(highest / hertz) / np.log2(highest / LOWEST_HZ)


def test_png_has_the_requested_size():
    picture = open_png(draw_spectrogram(sine(440), RATE, width=123, height=45))
    assert (picture.format, picture.mode, picture.size) == ("PNG", "P", (123, 45))
    assert picture.convert("RGB").getcolors(maxcolors=256)


@pytest.mark.parametrize("hertz", [60, 440, 1000, 5000, 15_000])
def test_tone_is_brightest_in_its_row(hertz):
    column = shades(sine(hertz, gain=0.1))[:, 30]
    assert abs(np.flatnonzero(column == column.max()).mean() + 0.5 - row_of(hertz)) <= 1.5


@pytest.mark.parametrize("hertz", [100, 440, 1000, 5000, 15_000])
def test_tone_has_its_level_at_any_frequency(hertz):
    assert level_db(shades(sine(hertz, gain=0.1))[:, 10:50].max()) == pytest.approx(-20.0, abs=1.5)


def test_a_sweep_is_one_rising_line():
    found = shades(sweep(8.0), width=200).argmax(axis=0)[20:-2]
    expected = 200 - (np.arange(200) + 0.5)[20:-2]
    assert np.abs(found + 0.5 - expected).max() <= 2.0
    assert (np.diff(found) <= 0).all()


def test_picture_is_dark_away_from_a_sweep():
    picture = shades(sweep(8.0), width=200)
    assert picture[:60, 20:100].max() < 40
    assert picture[150:, 120:180].max() < 40


@pytest.mark.parametrize("seconds", [0.05, 1.0, 30.0])
def test_time_runs_to_the_right_for_any_length(seconds):
    half = int(seconds * RATE / 2)
    audio = np.concatenate([np.zeros(half), sine(1000, seconds)[:half]])
    loudness = shades(audio, width=40).max(axis=0)
    assert loudness[:10].max() < 128 or seconds < 0.1
    assert loudness[30:].min() > 200
    assert loudness[30:].mean() > loudness[:10].mean()


def test_click_is_visible_in_a_long_file():
    audio = np.zeros(60 * RATE)
    audio[30 * RATE] = 1.0
    loudness = shades(audio, width=100).max(axis=0)
    assert loudness[50] > 0
    assert not loudness[:49].any()
    assert not loudness[52:].any()


@pytest.mark.parametrize("audio", [np.zeros(5000), np.zeros((2, 1))])
def test_silence_is_the_darkest_colour(audio):
    assert not shades(audio).any()


@pytest.mark.parametrize("rate", [8000, 44_100, 192_000])
def test_axis_ends_at_half_the_sample_rate(rate):
    found = shades(sine(1000, rate=rate), rate)[:, 30].argmax()
    assert abs(found + 0.5 - row_of(1000, highest=min(HIGHEST_HZ, rate / 2))) <= 2.0


def test_the_mean_of_the_channels_is_drawn():
    tone = sine(1000)
    assert not shades(np.stack([tone, -tone])).any()
    assert np.array_equal(shades(np.stack([tone, tone])), shades(tone))


@given(
    samples=st.integers(1, 3000),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    rate=st.sampled_from([8000, 22_050, 48_000]),
)
def test_any_length_and_size_can_be_drawn(samples, size, rate):
    audio = np.random.default_rng(samples).uniform(-1, 1, samples)
    assert open_png(draw_spectrogram(audio, rate, width=size[0], height=size[1])).size == size


@pytest.mark.parametrize("size", [(0, 10), (10, 0), (4097, 10), (10, 1025), (-1, -1)])
def test_size_out_of_range_is_refused(size):
    with pytest.raises(ValueError, match="A spectrogram cannot have"):
        draw_spectrogram(sine(440), RATE, width=size[0], height=size[1])


def test_labels_need_a_minimum_size():
    with pytest.raises(ValueError, match="expected 57 x 25"):
        draw_spectrogram(sine(440), RATE, width=56, height=100, labels=True)


@pytest.mark.parametrize("seconds", [0.001, 0.5, 30.0, 400.0])
def test_labels_surround_the_same_picture(seconds):
    audio = np.resize(sine(1000, 0.1), int(seconds * 8000))
    plain = open_png(draw_spectrogram(audio, 8000, width=344, height=176)).convert("RGB")
    sheet = open_png(draw_spectrogram(audio, 8000, width=400, height=200, labels=True))
    assert sheet.size == (400, 200)
    assert np.array_equal(np.asarray(sheet)[6:182, 44:388], np.asarray(plain))
    assert np.asarray(sheet)[:, :40].max() > 150
    assert np.asarray(sheet)[185:].max() > 150


def test_file_and_samples_give_the_same_result(tmp_path):
    audio = np.random.default_rng(1).uniform(-0.5, 0.5, (2, 200_000)).astype(np.float32)
    soundfile.write(tmp_path / "x.wav", audio.T, RATE, subtype="FLOAT")
    file = open_audio(tmp_path / "x.wav")
    assert draw_source_spectrogram(file, file.frames) == draw_spectrogram(audio, RATE)


class Long:
    """A source of a tone, generated on demand."""

    sample_rate = RATE
    channels = 2

    def __init__(self, seconds):
        self.seconds = seconds

    def blocks(self):
        second = np.tile(sine(1000, gain=0.1).astype(np.float32), (2, 1))
        return (second for _ in range(self.seconds))


def test_ten_minutes_need_bounded_memory():
    tracemalloc.start()
    try:
        drawn = draw_source_spectrogram(Long(600), 600 * RATE, width=400, height=100)
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()
    brightest = np.asarray(open_png(drawn)).max(axis=0)
    assert level_db(brightest[1:-1]) == pytest.approx(-20.0, abs=1.5)


@pytest.mark.parametrize("claimed", [10**15, 40 * RATE])
def test_missing_samples_stay_dark(claimed):
    drawn = np.asarray(open_png(draw_source_spectrogram(Long(20), claimed, width=40, height=50)))
    assert not drawn[:, 21:].any()


def test_no_frames_are_refused():
    with pytest.raises(ValueError, match="no samples"):
        draw_source_spectrogram(Long(1), 0)


def cielab_lightness(colours):
    """CIE 1976 lightness of sRGB colours, 0 to 100."""
    part = colours / 255.0
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    luminance = linear @ (0.2126, 0.7152, 0.0722)
    root = np.cbrt(luminance)
    return np.where(luminance > 0.008856, 116 * root - 16, 903.3 * luminance)


def test_lightness_of_the_palette_rises_evenly():
    lightness = cielab_lightness(palette())
    assert lightness[0] < 5
    assert lightness[-1] > 90
    assert (np.diff(lightness[::4]) > 0).all()
    assert np.diff(lightness[::16]).std() < 0.35 * np.diff(lightness[::16]).mean()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.005, "0.005 s"), (0.5, "0.5 s"), (59, "59 s"), (60, "1:00"), (3661, "61:01")],
)
def test_times_are_formatted_for_the_axis(seconds, text):
    assert spectrogram._format_time(seconds) == text


def ticks_in(sheet):
    """Columns of the time ticks below the picture, and rows of the frequency ticks beside it."""
    pixels = np.asarray(sheet)[:, :, 0]
    return np.flatnonzero(pixels[-17] == 200), np.flatnonzero(pixels[:, 41] == 200)


@pytest.mark.parametrize(("seconds", "step"), [(1.0, 0.2), (10.0, 2.0), (90.0, 30.0)])
def test_time_ticks_are_evenly_spaced(seconds, step):
    audio = np.zeros(round(seconds * 8000))
    sheet = open_png(draw_spectrogram(audio, 8000, width=456, height=124, labels=True))
    columns, _ = ticks_in(sheet)
    expected = 44 + np.arange(0.0, seconds + 1e-9, step) * 400 / seconds
    assert columns == pytest.approx(expected[expected < 456], abs=1)


def test_frequency_ticks_end_at_half_the_sample_rate():
    sheet = open_png(draw_spectrogram(np.zeros(8000), 8000, width=200, height=224, labels=True))
    _, rows = ticks_in(sheet)
    expected = [6 + row_of(hertz, 200, 4000) for hertz in (2000, 1000, 500, 200, 100, 50)]
    assert rows == pytest.approx(expected, abs=1)


def test_same_audio_gives_the_same_bytes():
    pictures = {draw_spectrogram(sweep(1.0), RATE, labels=True) for _ in range(2)}
    assert len(pictures) == 1


def test_source_is_not_read_beyond_the_picture():
    class Endless(Long):
        def blocks(self):
            for second, block in enumerate(super().blocks()):
                assert second < 4, "the picture ends after 2 s"
                yield block

    drawn = draw_source_spectrogram(Endless(100), 2 * RATE, width=10, height=10)
    assert drawn == draw_source_spectrogram(Long(3), 2 * RATE, width=10, height=10)
