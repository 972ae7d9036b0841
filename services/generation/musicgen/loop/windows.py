"""Pieces longer than the 30 s that MusicGen was trained on, as windows that overlap.

A window begins 18 s after the one before and takes its last 12 s for given; its positions begin at
0 again, and what it adds is put behind. This is how audiocraft extends a piece.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.generation.musicgen.geometry import FRAME_RATE

WINDOW_FRAMES = 30 * FRAME_RATE
STRIDE_FRAMES = 18 * FRAME_RATE


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a piece, in frames of the piece."""

    number: int
    start: int
    known: int
    """Frames of the window that are given: by the prefix, or by the window before."""
    frames: int
    """Frames of the window, the given ones included."""


def windows(
    frames: int, prefix: int = 0, *, window: int = WINDOW_FRAMES, stride: int = STRIDE_FRAMES
) -> tuple[Window, ...]:
    """The windows that draw a piece.

    Args:
        frames: of the whole piece.
        prefix: how many of them are given, fewer than all.
        window: frames of the longest window.
        stride: frames from the start of one to the next, fewer than `window`.
    """
    if not (0 <= prefix < frames and 0 < stride < window):
        raise ValueError(f"{frames} frames, {prefix} of them given, window {window}/{stride}.")
    plan = []
    known = prefix
    for number, start in enumerate(range(0, frames, stride)):
        stop = min(start + window, frames)
        if stop > known:
            plan.append(Window(number, start, known - start, stop - start))
            known = stop
    return tuple(plan)
