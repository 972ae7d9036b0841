"""The metadata of a take, independent of the file format that carries it."""

from __future__ import annotations

import datetime as dt
import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from services.audio.loudness import Loudness

_TEXTS = ("title", "prompt", "generation_id", "engine", "engine_version", "licence", "genre", "key")
_LOWEST_BPM, _HIGHEST_BPM = 1.0, 1000.0
_MOST_BARS = 1_000_000
_MOST_BEATS = 255
_MOST_SECTIONS = 1000
_USUAL_BEATS_PER_BAR = 4
_SEED_LIMIT = 1 << 128


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the music: an intro, a verse, a drop."""

    start_seconds: float
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeFacts:
    """The metadata that is written into a file; None stands for unknown.

    Prompt, engine, engine version and seed suffice to render the take again; `generation_id`
    identifies its job.
    """

    title: str | None = None
    """Of a stem or a file that is not a take. The title of a take is its prompt."""
    prompt: str | None = None
    generation_id: str | None = None
    engine: str | None = None
    engine_version: str | None = None
    seed: int | None = None
    licence: str | None = None
    """An SPDX identifier or a sentence."""
    created_at: dt.datetime | None = None
    """With a time zone."""
    genre: str | None = None
    bpm: float | None = None
    """Beats per minute; a beat is the unit that `beats_per_bar` counts."""
    key: str | None = None
    """As "C# minor" or "Eb major"."""
    bars: int | None = None
    beats_per_bar: int | None = None
    """None counts as 4."""
    beat_unit: int | None = None
    """The note that is a beat, 4 for a quarter; None counts as 4."""
    sections: tuple[Section, ...] = field(default=())
    loudness: Loudness | None = None
    """Of the samples in the file."""
    is_loop: bool | None = None
    """Whether the file can be repeated without a gap: whole bars with nothing after them."""

    @property
    def beats(self) -> int | None:
        return None if self.bars is None else self.bars * self.meter[0]

    @property
    def meter(self) -> tuple[int, int]:
        """Beats per bar and the note that is a beat, 4/4 where they are unknown."""
        return self.beats_per_bar or _USUAL_BEATS_PER_BAR, self.beat_unit or _USUAL_BEATS_PER_BAR

    @property
    def is_take(self) -> bool:
        """Whether they are of a take of DGX Music: nobody else states these."""
        own = (self.prompt, self.generation_id, self.engine, self.seed)
        return any(fact is not None for fact in own)

    def to_dict(self) -> dict[str, Any]:
        """Return the known fields, JSON-ready; `from_dict` is the inverse."""
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
        """Read the metadata from untrusted JSON; never raises.

        Invalid values are ignored: a tempo outside 1 to 1000 BPM, no bars, a number that is not
        finite, a value of the wrong type.
        """
        if not isinstance(found, Mapping):
            return cls()
        is_loop = found.get("is_loop")
        return cls(
            **{name: _parse_text(found.get(name)) for name in _TEXTS},
            seed=_parse_seed(found.get("seed")),
            created_at=_parse_time(found.get("created_at")),
            bpm=_parse_number(found.get("bpm"), _LOWEST_BPM, _HIGHEST_BPM),
            bars=_parse_count(found.get("bars"), _MOST_BARS),
            beats_per_bar=_parse_count(found.get("beats_per_bar"), _MOST_BEATS),
            beat_unit=_parse_count(found.get("beat_unit"), _MOST_BEATS),
            sections=_parse_sections(found.get("sections")),
            loudness=_parse_loudness(found.get("loudness")),
            is_loop=is_loop if isinstance(is_loop, bool) else None,
        )


def _parse_text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _is_int(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _parse_seed(value: Any) -> int | None:
    return int(value) if _is_int(value) and abs(value) < _SEED_LIMIT else None


def _parse_count(value: Any, most: int) -> int | None:
    return int(value) if _is_int(value) and 1 <= value <= most else None


def _parse_number(value: Any, lowest: float, highest: float) -> float | None:
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    # NaN fails both comparisons.
    return float(value) if is_number and lowest <= value <= highest else None


def _parse_time(value: object) -> dt.datetime | None:
    """Parse an ISO 8601 time and convert it to UTC; a time without a zone is UTC."""
    if not isinstance(value, str):
        return None
    try:
        moment = dt.datetime.fromisoformat(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).astimezone(dt.UTC)
    except (ValueError, OverflowError):
        return None


def _parse_sections(value: object) -> tuple[Section, ...]:
    found = []
    for one in value[:_MOST_SECTIONS] if isinstance(value, list) else []:
        if not isinstance(one, Mapping):
            continue
        start = _parse_number(one.get("start_seconds"), 0.0, 1e9)
        name = _parse_text(one.get("name"))
        if start is not None and name is not None:
            found.append(Section(start, name))
    return tuple(found)


def _parse_loudness(value: object) -> Loudness | None:
    if not isinstance(value, Mapping):
        return None
    from services.audio.loudness import Loudness

    figures: dict[str, float] = {}
    for one in fields(Loudness):
        if one.name not in value:
            return None
        # JSON has no minus infinity: `Loudness.to_dict` writes null.
        figure = value[one.name]
        known = -math.inf if figure is None else _parse_number(figure, -1000.0, 1000.0)
        if known is None:
            return None
        figures[one.name] = known
    return Loudness(**figures)
