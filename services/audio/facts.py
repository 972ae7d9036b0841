"""What a file of music says about itself, in whatever way its format can say it."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.audio.loudness import Loudness


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the music: an intro, a verse, a drop."""

    start_seconds: float
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeFacts:
    """Everything that is written into a file beside its samples; what is not known is None.

    The prompt, the engine with its version and the seed are enough to make the take again;
    `generation_id` is enough to find it.
    """

    prompt: str | None = None
    generation_id: str | None = None
    engine: str | None = None
    engine_version: str | None = None
    seed: int | None = None
    licence: str | None = None
    """Licence of the audio, as an SPDX identifier or a sentence."""
    created_at: dt.datetime | None = None
    """Time zone aware."""
    genre: str | None = None
    bpm: float | None = None
    key: str | None = None
    """`C# minor`, `Eb major`."""
    bars: int | None = None
    beats_per_bar: int = 4
    beat_unit: int = 4
    sections: tuple[Section, ...] = field(default=())
    loudness: Loudness | None = None
    """Of the samples in the file."""
    is_loop: bool = False
    """Whether the end joins the beginning: a whole number of bars and nothing after them."""

    @property
    def beats(self) -> int | None:
        """Beats of the whole take."""
        return None if self.bars is None else self.bars * self.beats_per_bar
