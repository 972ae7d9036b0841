"""The short-time spectra that tempo, key and features share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from services.audio.hearing import ANALYSIS_RATE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from services.audio.hearing import Heard

    Spectra = NDArray[np.float32]

SIZE, HOP = 1024, 256
"""Samples of the short window (46 ms) and from one to the next (12 ms)."""
FRAMES_PER_SECOND = ANALYSIS_RATE / HOP
BANDS = 40
"""Mel bands from 30 Hz to 10 kHz; the lowest ten end at 800 Hz."""

_LOWEST_HZ, _HIGHEST_HZ = 30.0, 10_000.0
_FRAMES_AT_ONCE = 256
_SILENT_POWER = 1e-10
"""Mean power of a bin under which a frame has no colour of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sketch:
    """A signal as its short-time spectrum tells it."""

    bands: Spectra
    """Magnitude, `[frames, BANDS]`; frame k is centred on k * HOP samples."""
    power: NDArray[np.float64]
    """Mean power spectrum, `[bins]`."""
    flatness: float
    """See `Features.spectral_flatness`."""


def magnitudes(mono: Spectra, size: int, hop: int) -> Iterator[Spectra]:
    """Magnitude spectra in groups of frames `[frames, size // 2 + 1]`.

    Frame k is centred on sample k * hop and weighted by a Hann window; a full-scale sine reads
    0.5.
    """
    padded = np.pad(mono, size // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    window = (_hann(size) * (2.0 / size)).astype(np.float32)
    for start in range(0, len(frames), _FRAMES_AT_ONCE):
        group = frames[start : start + _FRAMES_AT_ONCE] * window
        yield np.abs(np.fft.rfft(group, axis=1))


def frequencies(size: int) -> NDArray[np.float64]:
    """Hz of each bin of a window of that size."""
    return np.asarray(np.fft.rfftfreq(size, 1.0 / ANALYSIS_RATE), np.float64)


def sketch(heard: Heard) -> Sketch:
    """Band magnitudes and colour of a signal, in one pass of short windows."""
    weights = _mel_weights()
    hertz = frequencies(SIZE)
    ceiling = min(_HIGHEST_HZ, 0.45 * heard.sample_rate)
    coloured = (hertz >= _LOWEST_HZ) & (hertz <= ceiling)
    bands: list[Spectra] = []
    power = np.zeros(hertz.size)
    flat_power = total_power = 0.0
    for group in magnitudes(heard.mono, SIZE, HOP):
        bands.append(group @ weights)
        squares = group * group
        power += squares.sum(axis=0, dtype=np.float64)
        flatness, weight = _flatness(squares[:, coloured])
        flat_power += flatness
        total_power += weight
    stacked = np.concatenate(bands)
    return Sketch(
        bands=stacked,
        power=power / len(stacked),
        flatness=flat_power / total_power if total_power else 0.0,
    )


def _flatness(squares: Spectra) -> tuple[float, float]:
    """Sum over frames of flatness times power, and of power."""
    arithmetic = squares.mean(axis=1)
    geometric = np.exp(np.log(squares + np.float32(1e-20)).mean(axis=1))
    heard = arithmetic > _SILENT_POWER
    return (
        float(np.minimum(geometric, arithmetic)[heard].sum()),
        float(arithmetic[heard].sum()),
    )


@cache
def _hann(size: int) -> NDArray[np.float64]:
    return np.hanning(size + 1)[:-1]


@cache
def _mel_weights() -> Spectra:
    """Triangles a mel band, `[bins, BANDS]` (O'Shaughnessy's mel scale); no band is empty."""
    mels = np.linspace(_mel(_LOWEST_HZ), _mel(_HIGHEST_HZ), BANDS + 2)
    edges = 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    hertz = frequencies(SIZE)[:, None]
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (hertz - low) / (middle - low), (high - hertz) / (high - middle)
    weights = np.maximum(np.minimum(rising, falling), 0.0)
    for band in np.flatnonzero(weights.sum(axis=0) == 0.0):
        weights[np.argmin(np.abs(hertz - middle[band])), band] = 1.0
    return weights.astype(np.float32)


def _mel(hertz: float) -> float:
    return float(2595.0 * np.log10(1.0 + hertz / 700.0))
