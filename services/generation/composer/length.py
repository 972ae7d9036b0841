"""The length of a piece: how many bars it has, and whether it is a loop."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from services.errors import InvalidRequestError
from services.generation.composer.genres import GENRES
from services.generation.composer.harmony import BAR
from services.generation.composer.prompt import ParsedPrompt, parse_prompt
from services.generation.composer.vocabulary import INSTRUMENTS
from services.generation.length import MOST_BARS

if TYPE_CHECKING:
    from services.generation.engine import EngineFacts
    from services.generation.length import Length

HABIT_SECONDS = 30.0
"""Up to this duration a piece with a beat is a loop, unless the request says otherwise."""
_HABIT_BARS = (4, 16)
"""Fewest and most bars of a loop that nobody asked for."""
_STRETCH = 1.1
"""How much longer than asked a loop may be: 8 bars at 119 BPM for 16 seconds."""
_SAME_SECONDS = 0.05


def settle_length(
    prompt: str, length: Length, facts: EngineFacts, *, usual_seconds: float
) -> Length:
    """Decide duration, bars and loop of a request.

    A loop that was asked for by its duration has 1, 2, 4, 8, ... bars: the most that are at most a
    tenth longer than the duration. Pieces with a beat of up to 30 s are loops of 4, 8 or 16 bars
    where these fit, unless the request, or a section that the prompt names, says otherwise.

    Args:
        prompt: as the request has it; what `length` states wins over it.
        length: as the request states it.
        facts: of the engine; its longest duration and its sample rate.
        usual_seconds: duration of a request that states neither duration nor bars.

    Returns:
        The length with a duration, to the sample if it is whole bars, and with `loop` decided.
        `bars` is None if the duration decides how many fit.

    Raises:
        InvalidRequestError: bars and duration contradict each other, the bars last too long, or
            not even one bar of a loop fits the duration.
    """
    parsed = parse_prompt(prompt)
    bars, duration = length.bars, length.duration_seconds
    if bars is None and duration is None:
        bars = parsed.bars
    if bars is not None:
        seconds = _last(bars, parsed, facts)
        if duration is not None and abs(duration - seconds) > _SAME_SECONDS:
            raise InvalidRequestError(
                f"{_count(bars)} at {parsed.tempo_bpm:g} BPM last {seconds:.2f} s, not "
                f"{duration:g} s. Give either the bars or the duration."
            )
        loop = _is_loop(parsed, length.loop, seconds)
        return replace(length, duration_seconds=seconds, bars=bars, loop=loop)
    asked = usual_seconds if duration is None else duration
    if not _is_loop(parsed, length.loop, asked):
        return replace(length, duration_seconds=asked, loop=False)
    fewest, most = (1, MOST_BARS) if length.loop or parsed.loop else _HABIT_BARS
    fitting = _choose_bars(asked, parsed.tempo_bpm, most, facts)
    if fitting >= fewest:
        return replace(
            length, duration_seconds=_last(fitting, parsed, facts), bars=fitting, loop=True
        )
    if length.loop:
        raise InvalidRequestError(
            f"A loop has at least one bar, which lasts {_last(1, parsed, facts):.2f} s at "
            f"{parsed.tempo_bpm:g} BPM; the duration is {asked:g} s. Ask for bars instead."
        )
    return replace(length, duration_seconds=asked, loop=False)


def _last(bars: int, parsed: ParsedPrompt, facts: EngineFacts) -> float:
    """Return the seconds that the bars last, a whole number of samples."""
    bar = BAR * 60.0 / parsed.tempo_bpm
    if bars * bar > facts.longest_seconds:
        raise InvalidRequestError(
            f"{_count(bars)} at {parsed.tempo_bpm:g} BPM last {bars * bar:.1f} s; the longest take "
            f"has {facts.longest_seconds:g} s. Ask for at most "
            f"{int(facts.longest_seconds / bar)} bars."
        )
    return round(bars * bar * facts.sample_rate) / facts.sample_rate


def _count(bars: int) -> str:
    return "1 bar" if bars == 1 else f"{bars} bars"


def _choose_bars(seconds: float, tempo_bpm: float, most: int, facts: EngineFacts) -> int:
    """Return the most bars, a power of two, that fit the duration; 0 if not even one does."""
    longest = min(seconds * _STRETCH, facts.longest_seconds) + 1e-6
    bars, fitting = 1, 0
    while bars <= most and bars * BAR * 60.0 / tempo_bpm <= longest:
        fitting, bars = bars, 2 * bars
    return fitting


def _is_loop(parsed: ParsedPrompt, asked: bool | None, seconds: float) -> bool:
    if asked is not None:
        return asked
    short = seconds <= HABIT_SECONDS + _SAME_SECONDS
    return parsed.loop or (short and not parsed.structure and _has_beat(parsed))


def _has_beat(parsed: ParsedPrompt) -> bool:
    instruments = parsed.instrumentation
    drums = [name for name in instruments.only if INSTRUMENTS[name].slots == ("drums",)]
    kept = "drums" not in instruments.excluded and (bool(drums) or not instruments.only)
    return kept and GENRES[parsed.genre].form != "flow"
