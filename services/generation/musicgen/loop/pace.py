"""How long is left of a piece, from how long its parts took of late."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.generation.musicgen.loop.sequence import Sequence

MEMORY = 0.9
"""How much of the pace so far stays when something is measured."""


class Pace:
    """Seconds of a step, and of a position that a window opens with."""

    def __init__(self) -> None:
        self._step: float | None = None
        self._opening: float | None = None

    def stepped(self, seconds: float) -> None:
        """A step took that long."""
        self._step = _blend(self._step, seconds)

    def opened(self, positions: int, seconds: float) -> None:
        """A window that opens with so many positions took that long to begin."""
        if positions:
            self._opening = _blend(self._opening, seconds / positions)

    def seconds(self, steps: int, sequence: Sequence) -> float | None:
        """Of so many steps, and of the windows that a sequence has yet to begin.

        None before a step was measured.
        """
        if self._step is None:
            return None
        return steps * self._step + sequence.openings_left * (self._opening or 0.0)


def _blend(before: float | None, now: float) -> float:
    return now if before is None else MEMORY * before + (1 - MEMORY) * now
