"""The plan of a piece: all decisions made before the first note is written."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.generation.composer.arrangement import Passage, arrange
from services.generation.composer.drums import DrumPatterns, choose_patterns
from services.generation.composer.genres import GENRES
from services.generation.composer.grooves import GROOVES
from services.generation.composer.harmony import BAR, Harmony, compose_harmony
from services.generation.composer.random_streams import RandomStream
from services.generation.composer.rhythm import Feel
from services.generation.composer.styles import STYLES
from services.generation.composer.vocabulary import INSTRUMENTS
from services.generation.composer.voices import Voice, choose_voices

if TYPE_CHECKING:
    from services.generation.composer.prompt import ParsedPrompt
    from services.generation.score import Key

_LOUD = 0.6
"""Energy from which a section counts as loud."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What every part reads to write its notes."""

    seed: int
    genre: str
    tempo_bpm: float
    bars: int
    key: Key
    feel: Feel
    passages: tuple[Passage, ...]
    harmony: Harmony
    drum_patterns: DrumPatterns
    voices: tuple[Voice, ...]
    density: float
    """0..1, of the melody."""
    brightness: float
    """-1..1; 0 is the genre's own."""
    register: int
    """Semitones by which lead and arpeggio are shifted."""
    loop: bool
    """The end leads back to the start."""

    @property
    def beats(self) -> float:
        return self.bars * BAR

    def passages_of(self, voice: Voice) -> Iterator[tuple[Passage, range]]:
        """Yield the passages in which a voice plays, with its bars there.

        A voice that plays alone, or that no section has, plays throughout. A requested voice, or
        one with under a third of the bars, plays in every loud section. Without a chord part the
        pad, or else the arpeggio, plays where the chords would.
        """
        slots = [voice.slot]
        band = [other.slot for other in self.voices]
        harmony = next((slot for slot in ("chords", "pad", "arp") if slot in band), "")
        if voice.slot == harmony:
            slots.append("chords")
        spans = [
            max((passage.bars_of(slot) for slot in slots), key=len) for passage in self.passages
        ]
        heard = sum(map(len, spans))
        eager = voice.is_requested or heard < self.bars / 3
        for passage, bars in zip(self.passages, spans, strict=True):
            loud = eager and passage.kind.energy >= _LOUD
            whole = range(passage.section.start_bar, passage.end_bar)
            if span := whole if voice.plays_throughout or loud or not heard else bars:
                yield passage, span


def make_plan(
    parsed: ParsedPrompt,
    *,
    duration_seconds: float,
    seed: int,
    bars: int | None = None,
    loop: bool | None = None,
) -> Plan:
    """Decide everything about a piece but its notes; see `compose` for the arguments."""
    genre, style = GENRES[parsed.genre], STYLES[parsed.style]
    tempo = parsed.tempo_bpm
    # One seed gives unrelated pieces in two styles.
    seed = RandomStream(seed, parsed.style).getrandbits(53)
    if bars is None:
        bars = max(1, math.floor(duration_seconds * tempo / (60.0 * BAR) + 1e-6))
    loop = parsed.loop if loop is None else loop
    passages = arrange(bars, genre.form, loop=loop, structure=parsed.structure)
    harmony = compose_harmony(
        passages,
        genre=parsed.genre,
        key=parsed.key,
        colour=style.colour or genre.colour,
        seed=seed,
        loop=loop,
    )
    requested = parsed.instrumentation.requested
    drum_patterns = choose_patterns(
        GROOVES[style.groove or genre.groove],
        seed=seed,
        density=parsed.density,
        requested=tuple(pitch for name in requested for pitch in INSTRUMENTS[name].drums),
    )
    return Plan(
        seed=seed,
        genre=parsed.genre,
        tempo_bpm=tempo,
        bars=bars,
        key=parsed.key,
        feel=_choose_feel(parsed, seed),
        passages=passages,
        harmony=harmony,
        drum_patterns=drum_patterns,
        voices=choose_voices(parsed, seed),
        density=min(1.0, max(0.05, genre.lead_density + 0.3 * parsed.density)),
        brightness=parsed.brightness,
        register=parsed.register,
        loop=loop,
    )


def _choose_feel(parsed: ParsedPrompt, seed: int) -> Feel:
    genre, style = GENRES[parsed.genre], STYLES[parsed.style]
    swing = RandomStream(seed, "swing").uniform(*genre.swing)
    if style.swing is not None:
        swing = style.swing
    if parsed.swing is not None:
        swing = parsed.swing
    beat = parsed.tempo_bpm / 60.0
    return Feel(round(swing, 3), genre.humanise * beat, genre.late_snare * beat)
