"""How long a piece is, and whether it is a loop: decided before it is queued."""

from __future__ import annotations

from dataclasses import dataclass

MOST_BARS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Length:
    """The length of a request, as far as it is decided."""

    duration_seconds: float | None = None
    """None if the request does not say."""
    bars: int | None = None
    """Whole bars, which then decide the duration."""
    loop: bool | None = None
    """Whether the end leads back to the start; None for the habit of the engine."""
