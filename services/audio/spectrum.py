"""Short-time spectra, shared by tempo, key and features."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import soxr  # type: ignore[import-untyped]  # ships neither stubs nor py.typed

from services.audio.summary import ANALYSIS_RATE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from services.audio.summary import SignalSummary

    Spectra = NDArray[np.float32]

SIZE, HOP = 1024, 256
"""Length of the short window (46 ms) and its step (12 ms), in samples."""
FRAMES_PER_SECOND = ANALYSIS_RATE / HOP
BANDS = 40
"""Mel bands from 30 Hz to 10 kHz; the lowest ten end at 800 Hz."""

NOTE_HOPS = 2
"""Step of the note spectra in steps of `HOP`."""
LOWEST_NOTE, HIGHEST_NOTE = 35, 96
"""MIDI numbers: 62 Hz to 2.1 kHz."""

_LOWEST_HZ, _HIGHEST_HZ = 30.0, 10_000.0
_NOTE_DECIMATION, _NOTE_SIZE = 4, 1024
"""The note window is 186 ms long: neighbouring semitones are apart from 100 Hz on."""
_FRAMES_AT_ONCE = 256
_SILENT_POWER = 1e-10
"""Mean power of a bin below which a frame does not count for the flatness."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spectrum:
    bands: Spectra
    """Magnitude, `[frames, BANDS]`; frame k is centred on sample k * HOP."""
    notes: Spectra
    """Magnitude of the semitones from `LOWEST_NOTE` to `HIGHEST_NOTE`, `[note frames, semitones]`;
    frame k is centred on sample k * HOP * NOTE_HOPS."""
    power: NDArray[np.float64]
    """Mean power spectrum, `[bins]`."""
    flatness: float
    """See `Features.spectral_flatness`."""


def compute_magnitudes(mono: Spectra, size: int, hop: int) -> Iterator[Spectra]:
    """Yield magnitude spectra in groups of `[frames, size // 2 + 1]`.

    Frame k is centred on sample k * hop, with a Hann window. A full-scale sine has magnitude 0.5.
    """
    padded = np.pad(mono, size // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    window = (_hann(size) * (2.0 / size)).astype(np.float32)
    for start in range(0, len(frames), _FRAMES_AT_ONCE):
        group = frames[start : start + _FRAMES_AT_ONCE] * window
        yield np.abs(np.fft.rfft(group, axis=1))


def frequencies(size: int) -> NDArray[np.float64]:
    return np.asarray(np.fft.rfftfreq(size, 1.0 / ANALYSIS_RATE), np.float64)


def compute_spectrum(summary: SignalSummary) -> Spectrum:
    weights = _mel_weights()
    hertz = frequencies(SIZE)
    ceiling = min(_HIGHEST_HZ, 0.45 * summary.sample_rate)
    in_range = (hertz >= _LOWEST_HZ) & (hertz <= ceiling)
    bands: list[Spectra] = []
    power = np.zeros(hertz.size)
    flat_power = total_power = 0.0
    for group in compute_magnitudes(summary.mono, SIZE, HOP):
        bands.append(group @ weights)
        squares = group * group
        power += squares.sum(axis=0, dtype=np.float64)
        flatness, weight = _sum_flatness(squares[:, in_range])
        flat_power += flatness
        total_power += weight
    stacked = np.concatenate(bands)
    return Spectrum(
        bands=stacked,
        notes=_compute_notes(summary.mono),
        power=power / len(stacked),
        flatness=flat_power / total_power if total_power else 0.0,
    )


def _compute_notes(mono: Spectra) -> Spectra:
    """Return `Spectrum.notes` from the mono mix."""
    hop = NOTE_HOPS * HOP // _NOTE_DECIMATION
    # A quarter of the rate makes the long window as cheap as the short one.
    slow = soxr.resample(mono, _NOTE_DECIMATION, 1)
    groups = [group @ _note_weights() for group in compute_magnitudes(slow, _NOTE_SIZE, hop)]
    return np.concatenate(groups)


def _sum_flatness(squares: Spectra) -> tuple[float, float]:
    """Return the sums over frames of flatness times power, and of power."""
    arithmetic = squares.mean(axis=1)
    geometric = np.exp(np.log(squares + np.float32(1e-20)).mean(axis=1))
    audible = arithmetic > _SILENT_POWER
    return (
        float(np.minimum(geometric, arithmetic)[audible].sum()),
        float(arithmetic[audible].sum()),
    )


@cache
def _hann(size: int) -> NDArray[np.float64]:
    return np.hanning(size + 1)[:-1]


@cache
def _mel_weights() -> Spectra:
    """Return triangular mel bands (O'Shaughnessy's scale), `[bins, BANDS]`; none is empty."""
    mels = np.linspace(_mel(_LOWEST_HZ), _mel(_HIGHEST_HZ), BANDS + 2)
    edges = 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    hertz = frequencies(SIZE)[:, None]
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (hertz - low) / (middle - low), (high - hertz) / (high - middle)
    weights = np.maximum(np.minimum(rising, falling), 0.0)
    return weights.astype(np.float32)


@cache
def _note_weights() -> Spectra:
    """Return triangles a semitone wide on each side, `[bins, semitones]`; none is empty."""
    hertz = frequencies(_NOTE_SIZE)[:, None] / _NOTE_DECIMATION
    notes = np.arange(LOWEST_NOTE, HIGHEST_NOTE + 1)
    centres = 440.0 * 2.0 ** ((notes - 69) / 12)
    # Low semitones are narrower than a bin.
    width = np.maximum(centres * (2.0 ** (1 / 12) - 1.0), hertz[1])
    weights = np.maximum(1.0 - np.abs(hertz - centres) / width, 0.0)
    return np.asarray(weights, np.float32)


def _mel(hertz: float) -> float:
    return float(2595.0 * np.log10(1.0 + hertz / 700.0))
