"""Voicing and voice leading: the octave of each chord tone, with small moves between chords."""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations, pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.generation.score import Chord

Voicing = tuple[int, ...]


class Voicer:
    """Voices a series of chords inside a register (MIDI numbers), each close to the last one."""

    def __init__(self, low: int, high: int, voices: int) -> None:
        self._low, self._high, self._voices = low, high, voices
        self._last: Voicing = ()

    def voice(self, pitch_classes: tuple[int, ...]) -> Voicing:
        """Return a pitch for each pitch class, lowest first.

        With more classes than voices the fifth is left out first, then the last ones.
        """
        options = _list_options(pitch_classes, self._low, self._high, self._voices)
        centre = (self._low + self._high) / 2
        self._last = min(options, key=lambda option: (self._cost(option, centre), option))
        return self._last

    def _cost(self, option: Voicing, centre: float) -> float:
        cost = 0.35 * abs(sum(option) / len(option) - centre)
        if self._last:
            cost += sum(min(abs(pitch - old) for old in self._last) for pitch in option)
            cost += 0.8 * abs(option[-1] - self._last[-1])
        gaps = [high - low for low, high in pairwise(option)]
        cost += sum(3.0 for low, gap in zip(option, gaps, strict=False) if gap < 3 and low < 55)
        cost += sum(4.0 for gap in gaps if gap == 1) + sum(gap - 9 for gap in gaps if gap > 9)
        return cost


def tones_without_clashes(chord: Chord, *, around: bool = False) -> tuple[int, ...]:
    """Return the chord tones that may be held above the chord.

    A tone with another chord tone a semitone below it is left out: the root above a major seventh,
    or the minor third above a ninth, is a minor ninth. `around` also leaves out that other tone,
    for a part in the same register. Where fewer than two tones are left, the triad is returned.
    """
    tones = frozenset(chord.pitch_classes)
    clashes = {tone for tone in tones if (tone - 1) % 12 in tones}
    if around:
        clashes |= {(tone - 1) % 12 for tone in clashes}
    clear = tuple(tone for tone in chord.pitch_classes if tone not in clashes)
    return clear if len(clear) >= 2 else chord.pitch_classes[:3]


@lru_cache(maxsize=512)
def _list_options(
    classes: tuple[int, ...], low: int, high: int, voices: int
) -> tuple[Voicing, ...]:
    """Return every way to play each tone once within 17 semitones."""
    tones = classes if len(classes) <= voices else _drop_fifth(classes)[:voices]
    pitches = [pitch for pitch in range(low, high + 1) if pitch % 12 in tones]
    wanted = frozenset(tones)
    found = [
        option
        for option in combinations(pitches, len(tones))
        if option[-1] - option[0] <= 17 and frozenset(pitch % 12 for pitch in option) == wanted
    ]
    return tuple(found)


def _drop_fifth(classes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(tone for tone in classes if tone != classes[2])
