"""Control curves, which have one value every `CONTROL` samples: envelopes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from services.generation.composer.synth.kernels import CONTROL, Curve


@dataclass(frozen=True, slots=True)
class Adsr:
    """An envelope in seconds, except `sustain`, a level 0..1."""

    attack: float = 0.003
    decay: float = 0.3
    sustain: float = 1.0
    release: float = 0.08


def control_points(samples: int) -> int:
    """Return the number of control values that `samples` of audio need."""
    return samples // CONTROL + 2


def control_times(points: int, rate: int) -> Curve:
    """Return the time of each control value in seconds."""
    return np.arange(points, dtype=np.float64) * (CONTROL / rate)


def envelope(adsr: Adsr, seconds: Curve, held: float) -> Curve:
    """Return levels 0..1: exactly 0 at the start and from `held + release` on, smooth at both."""
    rise = np.sin(0.5 * np.pi * np.clip(seconds / adsr.attack, 0.0, 1.0)) ** 2
    fall = np.exp(-4.0 * np.maximum(seconds - adsr.attack, 0.0) / adsr.decay)
    released = np.clip((seconds - held) / adsr.release, 0.0, 1.0)
    # Like an exponential, but smooth at the release, and it ends.
    release = (1.0 - smooth_step(released)) ** 2
    level = rise * (adsr.sustain + (1.0 - adsr.sustain) * fall) * release
    return np.asarray(level, dtype=np.float64)


def smooth_step(values: Curve) -> Curve:
    """Return 0 below 0, 1 above 1, and a curve between them with slope 0 at both ends."""
    clipped = np.clip(values, 0.0, 1.0)
    return clipped * clipped * (3.0 - 2.0 * clipped)


def constant(points: int, value: float = 1.0) -> Curve:
    return np.full(points, value)
