"""Voicing: which octave each tone of a chord is played in, so that voices move little."""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations, pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.generation.score import Chord

Voicing = tuple[int, ...]


class Voicer:
    """Voices one chord after another inside a register (MIDI numbers), each close to the last."""

    def __init__(self, low: int, high: int, voices: int) -> None:
        self._low, self._high, self._voices = low, high, voices
        self._last: Voicing = ()

    def voice(self, chord: Chord) -> Voicing:
        """The pitches of a chord, lowest first."""
        return self.place(chord.pitch_classes)

    def place(self, classes: tuple[int, ...]) -> Voicing:
        """The pitches of these pitch classes, lowest first."""
        options = _options(classes, self._low, self._high, self._voices)
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


def clear_tones(chord: Chord, *, around: bool = False) -> tuple[int, ...]:
    """The chord's tones with none of its others a semitone below: what may be sung above it.

    The root over a major seventh, or a minor third over a ninth, is a minor ninth that grates when
    both are held. `around`: nor a semitone above, for a part in the same register. The triad, where
    fewer than two would be left.
    """
    tones = frozenset(chord.pitch_classes)
    rubs = {tone for tone in tones if (tone - 1) % 12 in tones}
    if around:
        rubs |= {(tone - 1) % 12 for tone in rubs}
    clear = tuple(tone for tone in chord.pitch_classes if tone not in rubs)
    return clear if len(clear) >= 2 else chord.pitch_classes[:3]


@lru_cache(maxsize=512)
def _options(classes: tuple[int, ...], low: int, high: int, voices: int) -> tuple[Voicing, ...]:
    """Every way to play the chord's telling tones once within an octave and a half."""
    tones = classes if len(classes) <= voices else _telling(classes, voices)
    pitches = [pitch for pitch in range(low, high + 1) if pitch % 12 in tones]
    wanted = frozenset(tones)
    found = [
        option
        for option in combinations(pitches, len(tones))
        if option[-1] - option[0] <= 17 and frozenset(pitch % 12 for pitch in option) == wanted
    ]
    return tuple(found)


def _telling(classes: tuple[int, ...], voices: int) -> tuple[int, ...]:
    """Leave out the fifth first: root, third and what colours the chord stay."""
    left = [tone for tone in classes if tone != classes[2]]
    return tuple(left[:voices])
