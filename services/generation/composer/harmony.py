"""Harmony: turns the roman numerals of a progression into the chords of a piece."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.generation.composer.progressions import progressions
from services.generation.composer.random_streams import RandomStream
from services.generation.score import MODE_INTERVALS, PITCH_CLASSES, Chord, Key

if TYPE_CHECKING:
    from services.generation.composer.arrangement import Passage

BAR = 4.0
"""Beats."""

_DEGREES = {"I": 0, "II": 1, "III": 2, "IV": 3, "V": 4, "VI": 5, "VII": 6}
_MINOR_MODES = ("minor", "dorian", "phrygian")

_SUFFIX: dict[tuple[int, ...], str] = {
    (0, 7): "5",
    (0, 6): "(b5)",
    (0, 4, 7): "",
    (0, 3, 7): "m",
    (0, 3, 6): "dim",
    (0, 5, 7): "sus4",
    (0, 4, 7, 11): "maj7",
    (0, 4, 7, 10): "7",
    (0, 3, 7, 10): "m7",
    (0, 3, 7, 11): "m(maj7)",
    (0, 3, 6, 10): "m7b5",
    (0, 4, 7, 11, 2): "maj9",
    (0, 4, 7, 10, 2): "9",
    (0, 3, 7, 10, 2): "m9",
    (0, 3, 6, 10, 2): "m9b5",
}


@dataclass(frozen=True, slots=True)
class Harmony:
    """The chords of a piece by time; `starts` are theirs, in beats."""

    chords: tuple[Chord, ...]
    starts: tuple[float, ...]
    loop: bool = False

    def at(self, beat: float) -> Chord:
        """Return the chord at a beat; after the end the last one, or in a loop from the first."""
        end = self.chords[-1].start + self.chords[-1].duration
        if self.loop and beat >= end - 1e-6:
            beat %= end
        return self.chords[max(0, bisect_right(self.starts, beat + 1e-6) - 1)]

    def between(self, start: float, end: float) -> Iterator[tuple[float, float, Chord]]:
        """Yield (start, duration, chord) from `start` to `end`, cut to them."""
        index = max(0, bisect_right(self.starts, start + 1e-6) - 1)
        for chord in self.chords[index:]:
            if chord.start >= end - 1e-6:
                return
            begin = max(start, chord.start)
            yield begin, min(end, chord.start + chord.duration) - begin, chord


def build_chord(numeral: str, key: Key, colour: str) -> tuple[int, tuple[int, ...], str]:
    """Return (root, pitch classes, symbol) of a numeral such as "iv" or "V" in the key.

    Chords are stacked thirds of the scale; an upper-case V in a minor mode raises the third
    (harmonic minor). `colour` power, triad, seventh or ninth adds the seventh and the ninth of the
    scale, except a ninth a semitone above the root, and one on a major tonic, where seventh and
    ninth would spell the dominant.
    """
    scale = MODE_INTERVALS[key.mode]
    degree = _DEGREES[numeral.upper()]

    def above(steps: int) -> int:
        octave, index = divmod(degree + steps, 7)
        return scale[index] + 12 * octave - scale[degree]

    intervals = [0, above(2), above(4)]
    if colour == "power":
        intervals = [0, above(4)]
    elif numeral == "V" and key.mode in ("minor", "dorian"):
        intervals = [0, 4, 7]
    if colour in ("seventh", "ninth"):
        intervals.append(above(6))
    home = degree == 0 and intervals[1] == 4
    if colour == "ninth" and above(8) != 13 and not home:
        intervals.append(above(8) - 12)
    root = (key.tonic + scale[degree]) % 12
    shape = tuple(intervals)
    symbol = PITCH_CLASSES[root] + _SUFFIX.get(shape, "")
    return root, tuple((root + step) % 12 for step in shape), symbol


def compose_harmony(
    passages: tuple[Passage, ...],
    *,
    genre: str,
    key: Key,
    colour: str,
    seed: int,
    loop: bool,
) -> Harmony:
    """Return chords without gaps: sections restart their theme's progression; the end resolves."""
    rng = RandomStream(seed, "harmony")
    choices = list(progressions(genre, key.mode))
    themes = [choices.pop(rng.randrange(len(choices)))]
    themes.append(choices.pop(rng.randrange(len(choices))) if choices else themes[0])
    bars = passages[-1].end_bar
    spread = _bars_per_chord(genre, bars, themes[0], rng)
    chords: list[Chord] = []
    for passage in passages:
        cells = _lay_out(passage, themes[passage.kind.theme], spread)
        _add_cadence(cells, passage, key, loop=loop)
        chords.extend(_make_chords(cells, passage.section.start_bar, key, colour))
    return Harmony(tuple(chords), tuple(chord.start for chord in chords), loop)


def _bars_per_chord(genre: str, bars: int, theme: str, rng: RandomStream) -> int:
    if bars <= 22:
        return 2 if genre == "ambient" and bars > 5 and len(theme.split()) <= 2 else 1
    slow = {"ambient": 1.0, "techno": 0.6, "drum and bass": 0.8, "trap": 0.4, "house": 0.3}
    return 2 if rng.chance(slow.get(genre, 0.15)) else 1


def _lay_out(passage: Passage, theme: str, spread: int) -> list[list[str]]:
    """Return the numerals of each bar of a section."""
    loop = [cell.split("/") for cell in theme.split() for _ in range(spread)]
    return [list(loop[bar % len(loop)]) for bar in range(passage.section.bars)]


def _add_cadence(cells: list[list[str]], passage: Passage, key: Key, *, loop: bool) -> None:
    """Lead a section to the tonic of the next one, and end the piece on the tonic, in place."""
    tonic = "i" if key.mode in _MINOR_MODES else "I"
    turn = {"minor": "V", "dorian": "IV", "phrygian": "II", "mixolydian": "VII", "lydian": "II"}
    leading = turn.get(key.mode, "V")
    if passage.is_last and not loop:
        cells[-1] = [tonic]
        if len(cells) >= 4:
            cells[-2] = [leading]
    elif len(cells) >= 4 and passage.next_kind is not None and cells[-1][-1] == tonic:
        cells[-1] = [cells[-1][0], leading]


def _make_chords(cells: list[list[str]], start_bar: int, key: Key, colour: str) -> list[Chord]:
    """Return the chords of a section; one that is held over a bar line is one chord."""
    out: list[Chord] = []
    for bar, cell in enumerate(cells, start_bar):
        length = BAR / len(cell)
        for index, numeral in enumerate(cell):
            root, classes, symbol = build_chord(numeral, key, colour)
            start = bar * BAR + index * length
            if out and out[-1].symbol == symbol and bar % 4 != start_bar % 4:
                out[-1] = Chord(out[-1].start, out[-1].duration + length, root, classes, symbol)
            else:
                out.append(Chord(start, length, root, classes, symbol))
    return out
