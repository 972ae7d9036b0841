"""Overlapping windows for music longer than the 30 s that MusicGen was trained on.

A window starts 18 s after the one before, takes the last 12 s of that one as known, and counts its
positions from 0. audiocraft extends music in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.generation.musicgen.geometry import FRAME_RATE

WINDOW_FRAMES = 30 * FRAME_RATE
STRIDE_FRAMES = 18 * FRAME_RATE


@dataclass(frozen=True, slots=True)
class Window:
    number: int
    start: int
    """First frame of the window in the sequence."""
    known: int
    """Frames at the start of the window that the prefix or the window before provides."""
    frames: int
    """All frames of the window, the known ones included."""


def plan_windows(
    frames: int, prefix: int = 0, *, window: int = WINDOW_FRAMES, stride: int = STRIDE_FRAMES
) -> tuple[Window, ...]:
    """Return the windows that draw a sequence; windows that the prefix covers are left out.

    Args:
        frames: all frames of the sequence.
        prefix: known frames at its start, fewer than `frames`.
        window: frames of the longest window.
        stride: frames from the start of one window to the next, fewer than `window`.

    Raises:
        ValueError: the numbers do not fit together.
    """
    if not (0 <= prefix < frames and 0 < stride < window):
        raise ValueError(f"{frames} frames, {prefix} of them known, window {window}/{stride}.")
    plan = []
    known = prefix
    for number, start in enumerate(range(0, frames, stride)):
        stop = min(start + window, frames)
        if stop > known:
            plan.append(Window(number, start, known - start, stop - start))
            known = stop
    return tuple(plan)
