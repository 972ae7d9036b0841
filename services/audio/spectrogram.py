"""Draw a spectrogram as a PNG, optionally with scales of time and frequency."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from services.audio.arrays import as_audio, check_sample_rate
from services.audio.sources import ArraySource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from PIL import Image, ImageDraw

    from services.audio.sources import Source

    Floats = NDArray[np.float64]
    Powers = NDArray[np.float32]
    Pixels = NDArray[np.uint8]

MAX_WIDTH, MAX_HEIGHT = 4096, 1024
LOWEST_HZ, HIGHEST_HZ = 30.0, 20_000.0
FLOOR_DB, TOP_DB = -100.0, -10.0
"""Levels of the first and last colour; 0 dB is a sine at full scale on all channels."""

_WINDOW_SECONDS = 0.085
_WINDOWS_AT_ONCE = 256
_PADDING = 2
"""Length of a transform in windows; the finer bins give low notes smooth edges."""
_HANN_NOISE_BINS = 1.5 * _PADDING
_LEFT, _BOTTOM, _RIGHT, _TOP = 44, 18, 12, 6
_TICKS_HZ = (50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000)
_TICK_SECONDS = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    *(1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600),
)
_TICK_PIXELS = 70
_INK, _PAPER = (200, 200, 208), (18, 18, 22)


def draw_spectrogram(
    signal: Any, sample_rate: int, *, width: int = 1000, height: int = 320, labels: bool = False
) -> bytes:
    """Draw the spectrogram of a signal: time to the right, frequency upwards, loud is bright.

    The frequency axis is logarithmic from 30 Hz to 20 kHz or half the sample rate.

    Args:
        signal: see `as_audio`; the mean of the channels is drawn.
        sample_rate: 8000 to 192000 Hz.
        width: pixels, 1 to 4096.
        height: pixels, 1 to 1024.
        labels: add scales of time and frequency within the given size.

    Raises:
        TypeError, ValueError: see `as_audio`, `check_sample_rate` and `draw_source_spectrogram`.
    """
    audio = as_audio(signal)
    source = ArraySource(audio, check_sample_rate(sample_rate))
    return draw_source_spectrogram(
        source, audio.shape[1], width=width, height=height, labels=labels
    )


def draw_source_spectrogram(
    source: Source, frames: int, *, width: int = 1000, height: int = 320, labels: bool = False
) -> bytes:
    """Draw audio of any length in one pass, like `draw_spectrogram`.

    Args:
        source: the audio.
        frames: samples per channel to draw, as in the header of a file. Further samples are left
            out; missing ones stay dark.
        width: pixels, 1 to 4096.
        height: pixels, 1 to 1024.
        labels: add scales.

    Raises:
        ValueError: the size is out of range or too small for labels, or `frames` is less than 1.
        UnreadableAudioError: see `AudioFile.blocks`.
    """
    least = (_LEFT + _RIGHT + 1, _BOTTOM + _TOP + 1) if labels else (1, 1)
    if not (least[0] <= width <= MAX_WIDTH and least[1] <= height <= MAX_HEIGHT):
        raise ValueError(
            f"A spectrogram cannot have {width} x {height} pixels; "
            f"expected {least[0]} x {least[1]} to {MAX_WIDTH} x {MAX_HEIGHT}."
        )
    if frames < 1:
        raise ValueError("There are no samples to draw.")
    inner = (width - _LEFT - _RIGHT, height - _BOTTOM - _TOP) if labels else (width, height)
    axis = _Axis.of(source.sample_rate, inner[1])
    pixels = _to_palette(_compute_column_powers(source, frames, inner[0], axis))
    return _encode_png(pixels, axis, frames / source.sample_rate, labels=labels)


@dataclass(frozen=True, slots=True, eq=False)
class _Axis:
    """Rows of equal width in octaves, the highest first, as weights of the bins of a spectrum."""

    lowest_hz: float
    highest_hz: float
    size: int
    """Samples of a window."""
    weights: Powers
    """`[bins, rows]`."""

    @classmethod
    def of(cls, sample_rate: int, rows: int) -> _Axis:
        highest = min(HIGHEST_HZ, sample_rate / 2.0)
        size = 1 << round(np.log2(_WINDOW_SECONDS * sample_rate))
        edges = np.geomspace(highest, LOWEST_HZ, rows + 1) * _PADDING * size / sample_rate
        # The spectrum is interpolated linearly, so that each bin is a triangle. A row gets the part
        # of the triangle's area that lies within the row.
        area = _hat_area(edges[np.newaxis, :] - np.arange(_PADDING * size // 2 + 1)[:, np.newaxis])
        share = area[:, :-1] - area[:, 1:]
        # Wide rows sum the power like a filter and narrow rows sample it, so that a steady tone has
        # the same level at any frequency.
        width = np.minimum(edges[:-1] - edges[1:], _HANN_NOISE_BINS)
        return cls(LOWEST_HZ, highest, size, (share / width).astype(np.float32))

    def row_of(self, hertz: float) -> float:
        """Return the position of a frequency in rows from the top."""
        rows = self.weights.shape[1]
        octaves = np.log2(self.highest_hz / self.lowest_hz)
        return float(rows * np.log2(self.highest_hz / hertz) / octaves)


def _hat_area(place: Floats) -> Floats:
    """Return the area left of `place` under a triangle from -1 to 1 with area 1."""
    kept = np.clip(place, -1.0, 1.0)
    return np.where(kept < 0.0, 0.5 * (1.0 + kept) ** 2, 1.0 - 0.5 * (1.0 - kept) ** 2)


def _compute_column_powers(source: Source, frames: int, width: int, axis: _Axis) -> Powers:
    """Return the mean power in each row and column, `[rows, width]`; 1 is a full-scale sine."""
    each = max(1, -(-2 * frames // (width * axis.size)))
    grid = _Grid(count=width * each, step=frames / (width * each), size=axis.size)
    window = np.hanning(axis.size + 1)[:-1]
    window *= 2.0 / window.sum()
    powers = np.zeros((width, len(axis.weights)), np.float32)
    for first, windows in _iter_windows(source, grid):
        windowed = windows * window.astype(np.float32)
        spectra = np.abs(np.fft.rfft(windowed, _PADDING * axis.size, axis=1)) ** 2
        columns = np.arange(first, first + len(windows)) // each
        starts = np.flatnonzero(np.diff(columns, prepend=-1))
        powers[columns[starts]] += np.add.reduceat(spectra, starts, axis=0) / each
    return np.asarray(axis.weights.T @ powers.T)


@dataclass(frozen=True, slots=True)
class _Grid:
    """Evenly spaced windows, the first centred on half a step."""

    count: int
    step: float
    size: int
    """Samples of a window."""

    def starts(self, first: int, some: int) -> NDArray[np.int64]:
        """Return the first samples of `some` windows; negative ones lie before the audio."""
        numbers = np.arange(first, min(first + some, self.count))
        return ((numbers + 0.5) * self.step).astype(np.int64) - self.size // 2


def _iter_windows(source: Source, grid: _Grid) -> Iterator[tuple[int, Powers]]:
    """Yield groups of windows: the index of the first, and the samples `[windows, size]`.

    The audio is surrounded by silence.
    """
    half = grid.size // 2
    held, start = np.zeros(half, np.float32), -half
    done = 0
    for block in _mono_blocks(source, half):
        held = np.concatenate((held, block))
        while done < grid.count:
            ready = grid.starts(done, _WINDOWS_AT_ONCE) - start
            ready = ready[ready + grid.size <= held.size]
            if not ready.size:
                break
            yield done, held[ready[:, np.newaxis] + np.arange(grid.size)]
            done += ready.size
        if done == grid.count:
            return
        gone = max(0, min(int(grid.starts(done, 1)[0]) - start, held.size))
        held, start = held[gone:], start + gone


def _mono_blocks(source: Source, silence: int) -> Iterator[Powers]:
    for block in source.blocks():
        yield block.mean(axis=0)
    yield np.zeros(silence, np.float32)


def _to_palette(powers: Powers) -> Pixels:
    """Convert powers to palette indices, 0 at the floor and 255 at the top."""
    decibels = 10.0 * np.log10(np.maximum(powers, 10.0 ** (FLOOR_DB / 10.0)))
    return np.asarray(
        np.clip((decibels - FLOOR_DB) / (TOP_DB - FLOOR_DB), 0.0, 1.0) * 255.0 + 0.5, np.uint8
    )


@cache
def palette() -> Pixels:
    """Return 256 colours from dark blue through red to pale yellow, sRGB `[256, 3]`.

    The lightness in Oklab (Björn Ottosson, 2020) rises evenly, so that equal steps look equal.
    """
    place = np.linspace(0.0, 1.0, 256)
    lightness = 0.12 + 0.85 * place
    chroma = np.interp(place, (0.0, 0.15, 0.5, 0.8, 1.0), (0.03, 0.11, 0.185, 0.16, 0.05))
    hue = np.deg2rad(np.interp(place, (0.0, 0.3, 0.6, 0.85, 1.0), (275, 315, 385, 435, 465)))
    lab = np.stack((lightness, chroma * np.cos(hue), chroma * np.sin(hue)), axis=1)
    roots = lab @ np.array(
        [
            [1.0, 1.0, 1.0],
            [0.3963377774, -0.1055613458, -0.0894841775],
            [0.2158037573, -0.0638541728, -1.2914855480],
        ]
    )
    linear = roots**3 @ np.array(
        [
            [4.0767416621, -1.2684380046, -0.0041960863],
            [-3.3077115913, 2.6097574011, -0.7034186147],
            [0.2309699292, -0.3413193965, 1.7076147010],
        ]
    )
    kept = np.clip(linear, 0.0, 1.0)
    curved = np.where(kept <= 0.0031308, 12.92 * kept, 1.055 * kept ** (1 / 2.4) - 0.055)
    return np.asarray(curved * 255.0 + 0.5, np.uint8)


def _encode_png(pixels: Pixels, axis: _Axis, seconds: float, *, labels: bool) -> bytes:
    from PIL import Image

    picture = Image.fromarray(pixels)
    picture.putpalette(palette().tobytes())
    if labels:
        picture = _add_labels(picture, axis, seconds)
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=6)
    return file.getvalue()


def _add_labels(picture: Image.Image, axis: _Axis, seconds: float) -> Image.Image:
    from PIL import Image, ImageDraw

    size = (picture.width + _LEFT + _RIGHT, picture.height + _TOP + _BOTTOM)
    sheet = Image.new("RGB", size, _PAPER)
    sheet.paste(picture.convert("RGB"), (_LEFT, _TOP))
    draw = ImageDraw.Draw(sheet)
    for hertz in _TICKS_HZ:
        row = _TOP + round(axis.row_of(hertz))
        if _TOP <= row <= _TOP + picture.height:
            draw.line((_LEFT - 4, row, _LEFT - 1, row), fill=_INK)
            name = f"{hertz // 1000} kHz" if hertz >= 1000 else f"{hertz} Hz"
            draw.text((_LEFT - 7, row), name, fill=_INK, anchor="rm")
    _draw_times(draw, picture, seconds)
    return sheet


def _draw_times(draw: ImageDraw.ImageDraw, picture: Image.Image, seconds: float) -> None:
    a_second = picture.width / seconds
    fitting = [tick for tick in _TICK_SECONDS if tick * a_second >= _TICK_PIXELS]
    tick = fitting[0] if fitting else seconds
    bottom = _TOP + picture.height
    for number in range(int(seconds / tick) + 1):
        column = _LEFT + round(number * tick * a_second)
        draw.line((column, bottom, column, bottom + 3), fill=_INK)
        draw.text((column, bottom + 5), _format_time(number * tick), fill=_INK, anchor="mt")


def _format_time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"
