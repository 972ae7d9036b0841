"""What a file of music says about itself, in whatever way its format can say it."""

from __future__ import annotations

import datetime as dt
import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from services.audio.loudness import Loudness

_TEXTS = ("prompt", "generation_id", "engine", "engine_version", "licence", "genre", "key")
_LOWEST_BPM, _HIGHEST_BPM = 1.0, 1000.0
_MOST_BARS = 1_000_000
_MOST_BEATS = 255
_MOST_SECTIONS = 1000
_SEED_LIMIT = 1 << 128


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
    """Beats a minute, a beat being what `beats_per_bar` counts."""
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

    def to_dict(self) -> dict[str, Any]:
        """What is known, by name and ready for JSON; `from_dict` takes it back."""
        known = {one.name: getattr(self, one.name) for one in fields(self)}
        if self.created_at is not None:
            known["created_at"] = self.created_at.isoformat()
        if self.loudness is not None:
            known["loudness"] = self.loudness.to_dict()
        known["sections"] = [
            {"start_seconds": one.start_seconds, "name": one.name} for one in self.sections
        ] or None
        return {name: value for name, value in known.items() if value is not None}

    @classmethod
    def from_dict(cls, found: object) -> TakeFacts:
        """Facts out of what `to_dict` gave, or anybody else wrote.

        What cannot be is left out: a tempo outside 1 to 1000, a bar count of 0, a number that is
        not finite, a value of another type. Nothing is raised.
        """
        if not isinstance(found, Mapping):
            return cls()
        meter = [_whole(found.get(name), _MOST_BEATS) for name in ("beats_per_bar", "beat_unit")]
        beats_per_bar, beat_unit = [value or 4 for value in meter]
        return cls(
            **{name: _text(found.get(name)) for name in _TEXTS},
            seed=_seed(found.get("seed")),
            created_at=_moment(found.get("created_at")),
            bpm=_between(found.get("bpm"), _LOWEST_BPM, _HIGHEST_BPM),
            bars=_whole(found.get("bars"), _MOST_BARS),
            beats_per_bar=beats_per_bar,
            beat_unit=beat_unit,
            sections=_sections(found.get("sections")),
            loudness=_loudness(found.get("loudness")),
            is_loop=found.get("is_loop") is True,
        )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _is_int(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _seed(value: Any) -> int | None:
    return int(value) if _is_int(value) and abs(value) < _SEED_LIMIT else None


def _whole(value: Any, most: int) -> int | None:
    return int(value) if _is_int(value) and 1 <= value <= most else None


def _between(value: Any, lowest: float, highest: float) -> float | None:
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    # NaN is within no limits.
    return float(value) if is_number and lowest <= value <= highest else None


def _moment(value: object) -> dt.datetime | None:
    """In UTC, which is also what a time without a zone is taken for."""
    if not isinstance(value, str):
        return None
    try:
        moment = dt.datetime.fromisoformat(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).astimezone(dt.UTC)
    except (ValueError, OverflowError):
        return None


def _sections(value: object) -> tuple[Section, ...]:
    found = []
    for one in value[:_MOST_SECTIONS] if isinstance(value, list) else []:
        if not isinstance(one, Mapping):
            continue
        start = _between(one.get("start_seconds"), 0.0, 1e9)
        name = _text(one.get("name"))
        if start is not None and name is not None:
            found.append(Section(start, name))
    return tuple(found)


def _loudness(value: object) -> Loudness | None:
    if not isinstance(value, Mapping):
        return None
    from services.audio.loudness import Loudness

    figures: dict[str, float] = {}
    for one in fields(Loudness):
        if one.name not in value:
            return None
        # JSON has no minus infinity: silence stands there as null.
        figure = value[one.name]
        known = -math.inf if figure is None else _between(figure, -1000.0, 1000.0)
        if known is None:
            return None
        figures[one.name] = known
    return Loudness(**figures)
