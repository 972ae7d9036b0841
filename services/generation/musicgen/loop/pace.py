"""Estimates of the time left, from moving averages of measured times."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.generation.musicgen.loop.sequence import Sequence

SMOOTHING = 0.9
"""Weight of the average so far when a measurement is added."""


class Pace:
    """Average seconds of a step and of a prefilled position."""

    def __init__(self) -> None:
        self._step_seconds: float | None = None
        self._prefill_seconds: float | None = None

    def record_step(self, seconds: float) -> None:
        self._step_seconds = _average(self._step_seconds, seconds)

    def record_prefill(self, positions: int, seconds: float) -> None:
        if positions:
            self._prefill_seconds = _average(self._prefill_seconds, seconds / positions)

    def estimate_seconds(self, steps: int, sequence: Sequence) -> float | None:
        """Return the time of `steps` and of the prefills that a sequence has yet to do.

        None before the first step was measured.
        """
        if self._step_seconds is None:
            return None
        prefill = sequence.prefill_positions_left * (self._prefill_seconds or 0.0)
        return steps * self._step_seconds + prefill


def _average(before: float | None, now: float) -> float:
    return now if before is None else SMOOTHING * before + (1 - SMOOTHING) * now
