"""The plan of a piece: everything decided before the first note is written."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.generation.composer.arrangement import Passage, arrange
from services.generation.composer.dice import Dice
from services.generation.composer.drum_styles import DRUM_STYLES
from services.generation.composer.drums import Kit, choose_kit
from services.generation.composer.genres import GENRES
from services.generation.composer.harmony import BAR, Harmony, compose_harmony
from services.generation.composer.rhythm import Feel
from services.generation.composer.styles import STYLES
from services.generation.composer.vocabulary import INSTRUMENTS
from services.generation.composer.voices import Voice, choose_voices

if TYPE_CHECKING:
    from services.generation.composer.prompt import Understood
    from services.generation.score import Key

_LOUD = 0.6
"""The energy from which on a section is loud."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the players read."""

    seed: int
    genre: str
    tempo_bpm: float
    bars: int
    key: Key
    feel: Feel
    passages: tuple[Passage, ...]
    harmony: Harmony
    kit: Kit
    voices: tuple[Voice, ...]
    density: float
    """0..1: how busy the tune is."""
    brightness: float
    """-1..1 around the genre's own."""
    register: int
    """Semitones for what carries the tune."""

    @property
    def beats(self) -> float:
        """Length in beats."""
        return self.bars * BAR

    def playing(self, voice: Voice) -> Iterator[tuple[Passage, range]]:
        """The passages in which a voice takes part, with its bars there.

        A voice that would never be heard, or that has nobody beside it, plays throughout; one that
        was asked for, or would hardly be heard, plays in every loud section. Where nobody has the
        chords, the pad (or else the arpeggio) stands in for them.
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
        eager = voice.asked or heard < self.bars / 3
        for passage, bars in zip(self.passages, spans, strict=True):
            loud = eager and passage.shape.energy >= _LOUD
            whole = range(passage.section.start_bar, passage.end_bar)
            if span := whole if voice.everywhere or loud or not heard else bars:
                yield passage, span


def make_plan(understood: Understood, *, duration_seconds: float, seed: int) -> Plan:
    """Decide form, harmony, kit and voices; the same arguments give the same plan."""
    genre, style = GENRES[understood.genre], STYLES[understood.style]
    tempo = understood.tempo_bpm
    # Styles share no decisions: one seed gives unrelated pieces in two of them.
    seed = Dice(seed, understood.style).getrandbits(53)
    bars = max(1, math.floor(duration_seconds * tempo / (60.0 * BAR) + 1e-6))
    passages = arrange(bars, genre.form, loop=understood.loop, structure=understood.structure)
    harmony = compose_harmony(
        passages,
        genre=understood.genre,
        key=understood.key,
        colour=style.colour or genre.colour,
        seed=seed,
        loop=understood.loop,
    )
    wanted = tuple(pitch for name in understood.wishes.wanted for pitch in INSTRUMENTS[name].drums)
    kit = choose_kit(
        DRUM_STYLES[style.drums or genre.drums],
        seed=seed,
        density=understood.density,
        wanted=wanted,
    )
    return Plan(
        seed=seed,
        genre=understood.genre,
        tempo_bpm=tempo,
        bars=bars,
        key=understood.key,
        feel=_feel(understood, seed),
        passages=passages,
        harmony=harmony,
        kit=kit,
        voices=choose_voices(understood, seed),
        density=min(1.0, max(0.05, genre.lead_density + 0.3 * understood.density)),
        brightness=understood.brightness,
        register=understood.register,
    )


def _feel(understood: Understood, seed: int) -> Feel:
    genre, style = GENRES[understood.genre], STYLES[understood.style]
    swing = Dice(seed, "swing").uniform(*genre.swing)
    if style.swing is not None:
        swing = style.swing
    if understood.swing is not None:
        swing = understood.swing
    beat = understood.tempo_bpm / 60.0
    return Feel(round(swing, 3), genre.humanise * beat, genre.late_snare * beat)
