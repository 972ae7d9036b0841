"""Band-limited wave tables, and white noise."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from services.generation.composer.synth.kernels import TABLE, Audio

Harmonics = NDArray[np.float64]
Wave = Literal["sine", "triangle", "saw", "square", "pulse", "organ", "flute", "bowed", "reed"]

_DRAWBARS = {1: 0.9, 2: 1.0, 3: 0.75, 4: 0.5, 6: 0.22, 8: 0.3, 10: 0.07, 12: 0.06, 16: 0.1}
_FLUTE = {1: 1.0, 2: 0.32, 3: 0.16, 4: 0.05, 5: 0.025, 6: 0.012}


def pitch_hertz(pitch: float) -> float:
    """Return the frequency of a MIDI pitch in equal temperament, A4 = 69 = 440 Hz."""
    return float(440.0 * 2.0 ** ((pitch - 69.0) / 12.0))


def harmonics_below_nyquist(highest_hertz: float, rate: int) -> int:
    """Return the number of harmonics below the Nyquist frequency, less 3 % for vibrato."""
    return int(np.clip(0.485 * rate / max(highest_hertz, 1.0), 1, TABLE // 4))


def _look_up(k: Harmonics, levels: dict[int, float]) -> Harmonics:
    return np.array([levels.get(int(n), 0.0) for n in k])


# Amplitude of each harmonic, as a sine; an imaginary part shifts its phase.
_SPECTRA: dict[Wave, Callable[[Harmonics], Harmonics | NDArray[np.complex128]]] = {
    "sine": lambda k: np.where(k == 1, 1.0, 0.0),
    "triangle": lambda k: np.where(k % 2 == 1, np.where(k % 4 == 1, 0.81, -0.81) / k**2, 0.0),
    "saw": lambda k: 0.6 / k,
    "square": lambda k: np.where(k % 2 == 1, 0.9 / k, 0.0),
    # High for a quarter of the cycle; the phases make it flat.
    "pulse": lambda k: 0.9j * np.sin(0.25 * np.pi * k) / k * np.exp(-0.25j * np.pi * k),
    "organ": lambda k: 0.4 * _look_up(k, _DRAWBARS),
    "flute": lambda k: 0.9 * _look_up(k, _FLUTE),
    # A saw with the body resonance of a violin and soft highs.
    "bowed": lambda k: 0.5 / k * (1.0 + 0.6 * np.exp(-(((k - 4) / 3) ** 2))) * np.exp(-k / 40),
    "reed": lambda k: 0.55 / k * np.where(k % 2 == 1, 1.0, 0.55) * np.exp(-k / 60),
}


@lru_cache(maxsize=512)
def wavetable(wave: Wave, harmonics: int) -> Audio:
    """Return one cycle and its first sample again, float32 `[TABLE + 1]`, read-only.

    Harmonics are sines, so that every table except the pulse starts at zero.
    """
    spectrum = np.zeros(TABLE // 2 + 1, dtype=np.complex128)
    numbers = np.arange(1, harmonics + 1, dtype=np.float64)
    spectrum[1 : harmonics + 1] = -0.5j * TABLE * _SPECTRA[wave](numbers)
    cycle = np.fft.irfft(spectrum, TABLE)
    table = np.append(cycle, cycle[0]).astype(np.float32)
    table.setflags(write=False)
    return table


def noise(rng: np.random.Generator, channels: int, samples: int) -> Audio:
    """Return uniform white noise, RMS 1, peak 1.73, independent in each channel."""
    raw = rng.random((channels, samples), dtype=np.float32)
    raw -= np.float32(0.5)
    raw *= np.float32(12.0**0.5)
    return raw
