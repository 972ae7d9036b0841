"""Control curves: envelopes and slow movements, one value every `CONTROL` samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from services.generation.composer.synth.kernels import CONTROL, Curve


@dataclass(frozen=True, slots=True)
class Adsr:
    """Seconds, except `sustain`, a level. `decay` and `release` are the times to die away."""

    attack: float = 0.003
    decay: float = 0.3
    sustain: float = 1.0
    release: float = 0.08


def points_of(samples: int) -> int:
    """How many control values `samples` of audio need."""
    return samples // CONTROL + 2


def times(points: int, rate: int) -> Curve:
    """Seconds of each control value."""
    return np.arange(points, dtype=np.float64) * (CONTROL / rate)


def envelope(form: Adsr, seconds: Curve, held: float) -> Curve:
    """0..1, exactly 0 at the start and from `held + release` on, without corners at either end."""
    rise = np.sin(0.5 * np.pi * np.clip(seconds / form.attack, 0.0, 1.0)) ** 2
    fall = np.exp(-4.0 * np.maximum(seconds - form.attack, 0.0) / form.decay)
    let_go = np.clip((seconds - held) / form.release, 0.0, 1.0)
    # Near enough to an exponential, but it has no corner when the note is let go, and it ends.
    gone = (1.0 - smooth_step(let_go)) ** 2
    level = rise * (form.sustain + (1.0 - form.sustain) * fall) * gone
    return np.asarray(level, dtype=np.float64)


def smooth_step(values: Curve) -> Curve:
    """0 below 0, 1 above 1, and a slope of 0 at both."""
    clipped = np.clip(values, 0.0, 1.0)
    return clipped * clipped * (3.0 - 2.0 * clipped)


def constant(points: int, value: float = 1.0) -> Curve:
    """A curve that does not move."""
    return np.full(points, value)
