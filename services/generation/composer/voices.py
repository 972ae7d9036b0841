"""Chooses the voices: the genre's usual ones and the requested ones, without the excluded ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from services.generation.composer.genres import GENRES, Genre, MixSettings
from services.generation.composer.random_streams import RandomStream
from services.generation.composer.styles import STYLES
from services.generation.composer.vocabulary import INSTRUMENTS

if TYPE_CHECKING:
    from services.generation.composer.instrumentation import Instrumentation
    from services.generation.composer.prompt import ParsedPrompt
    from services.generation.score import Role

SLOTS = ("drums", "bass", "chords", "pad", "lead", "arp", "texture", "riser", "impact")
"""The places in an arrangement, in the order of the parts of a score."""

_ROLES: dict[str, Role] = {
    "drums": "drums", "bass": "bass", "chords": "chords", "pad": "pad", "lead": "lead",
    "arp": "arp", "texture": "texture", "riser": "texture", "impact": "texture",
}  # fmt: skip
_FILL_UP = ("pad", "lead", "chords", "arp")
"""Slots that join, in this order, where fewer than `_FEWEST` would play."""
_FEWEST = 5
_BASS_STYLE_OF = {
    "bass-808": "808",
    "bass-acid": "acid",
    "bass-reese": "reese",
    "bass-upright": "upright",
}
_SUSTAINED = ("strings", "pad-warm", "pad-supersaw")
"""Patches that hold their chords in every genre."""
_FALLBACKS = {
    "bass": ("bass-sub", "bass-saw"),
    "chords": ("keys-rhodes", "keys-piano", "pad-warm"),
    "pad": ("pad-warm", "strings"),
    "lead": ("lead-pluck", "lead-bell", "lead-flute"),
    "arp": ("arp-pluck", "lead-pluck"),
    "texture": ("vinyl", "wind"),
    "riser": ("noise-riser",),
    "impact": ("impact",),
}


@dataclass(frozen=True, slots=True)
class Voice:
    """A part before its notes are written."""

    name: str
    slot: str
    patch: str
    style: str
    """How it plays: a bass, comping or arpeggio style; "" where there is one way only."""
    mix: MixSettings
    plays_throughout: bool = False
    """Plays in every section, of whatever kind."""
    is_requested: bool = False
    """The prompt asked for it: it plays in every loud section."""
    is_countermelody: bool = False
    """Fills the gaps of the lead."""
    only_pitches: frozenset[int] = frozenset()
    """For drums: the pitches it plays; empty for all."""
    muted_pitches: frozenset[int] = frozenset()
    """For drums: the pitches it leaves out."""

    @property
    def role(self) -> Role:
        return _ROLES[self.slot]


def choose_voices(parsed: ParsedPrompt, seed: int) -> tuple[Voice, ...]:
    """Return the voices in the order of the score, at least one."""
    genre = GENRES[parsed.genre]
    instrumentation = parsed.instrumentation
    patches = _choose_patches(parsed, genre, seed)
    names = instrumentation.only or instrumentation.requested
    requested, extras = _assign_slots(names, instrumentation)
    patches |= {slot: patch for slot, patch in requested.items() if patch}
    excluded = _excluded_patches(instrumentation)
    _separate_sounds(patches, requested, genre, excluded)
    if instrumentation.only:
        slots = set(requested)
    else:
        slots = _choose_slots(parsed, genre, seed) | set(requested)
        slots = _drop_excluded_slots(slots, parsed)
        _fill_up(slots, parsed)
    slots = {slot for slot in slots if slot in requested or patches[slot] not in excluded}
    slots = slots or {"pad"}
    alone = bool(instrumentation.only) or len(slots - {"texture", "riser", "impact"}) == 1
    voices = [
        _make_voice(slot, patches, parsed, seed, plays_throughout=alone)
        for slot in SLOTS
        if slot in slots
    ]
    for name, slot, patch in extras:
        voice = _make_voice(slot, patches | {slot: patch}, parsed, seed, plays_throughout=alone)
        mix = replace(voice.mix, pan=-voice.mix.pan or 0.25, gain_db=voice.mix.gain_db - 2)
        voice = replace(voice, name=name.replace(" ", "-"), mix=mix)
        voices.append(replace(voice, is_requested=True, is_countermelody=True))
    return tuple(voices)


def _choose_patches(parsed: ParsedPrompt, genre: Genre, seed: int) -> dict[str, str]:
    """Return a patch for each slot, an excluded one only where all of the slot are excluded."""
    excluded = _excluded_patches(parsed.instrumentation)
    own = dict(STYLES[parsed.style].patches)
    out = {"drums": genre.kit}
    for slot, fallbacks in _FALLBACKS.items():
        usual = genre.patches.get(slot, fallbacks)
        choices = (
            [patch for patch in usual if patch not in excluded]
            or [patch for patch in fallbacks if patch not in excluded]
            or [usual[0]]
        )
        # The first is the most typical of the genre.
        weights = {patch: 1.0 / (rank + 1) for rank, patch in enumerate(choices)}
        out[slot] = RandomStream(seed, "patch", slot).weighted_choice(weights)
        if own.get(slot) not in (None, *excluded):
            out[slot] = own[slot]
    if out["lead"] == out["chords"] and len(genre.patches["lead"]) > 1 and "lead" not in own:
        out["lead"] = _other_patch("lead", out, genre, excluded | {out["chords"]})
    return out


def _excluded_patches(instrumentation: Instrumentation) -> frozenset[str]:
    patches = (INSTRUMENTS[name].patch for name in instrumentation.excluded)
    return frozenset(patch for patch in patches if patch)


def _separate_sounds(
    patches: dict[str, str],
    requested: Mapping[str, str | None],
    genre: Genre,
    excluded: frozenset[str],
) -> None:
    """Change the patch of chords or pad where it would double the lead or each other, in place."""
    if patches["chords"] == patches["lead"] and "lead" in requested and "chords" not in requested:
        taken = excluded | {patches["lead"], *_SUSTAINED}
        patches["chords"] = _other_patch("chords", patches, genre, taken)
    if patches["chords"] == patches["pad"]:
        slot = "chords" if "pad" in requested else "pad"
        if slot not in requested:
            taken = excluded | {patches["pad"], patches["lead"]}
            patches[slot] = _other_patch(slot, patches, genre, taken)


def _other_patch(slot: str, patches: Mapping[str, str], genre: Genre, taken: frozenset[str]) -> str:
    """Return the first patch of a slot that is not taken; the present one where all are."""
    others = (*genre.patches[slot], *_FALLBACKS[slot])
    return next((patch for patch in others if patch not in taken), patches[slot])


def _assign_slots(
    names: tuple[str, ...], instrumentation: Instrumentation
) -> tuple[dict[str, str | None], list[tuple[str, str, str]]]:
    """Assign the named instruments to slots.

    Returns:
        Slot -> patch, None for the genre's own; and (name, slot, patch) of the instruments whose
        slots were all taken.
    """
    stated = dict(instrumentation.slots)
    assigned: dict[str, str | None] = {}
    extras: list[tuple[str, str, str]] = []

    # First the instruments whose slot the prompt states, then those that name a sound.
    def rank(name: str) -> tuple[bool, bool]:
        return name not in stated, not INSTRUMENTS[name].patch

    for name in sorted(names, key=rank):
        instrument = INSTRUMENTS[name]
        slots = (stated[name], *instrument.slots) if name in stated else instrument.slots
        free = next((slot for slot in slots if slot not in assigned), None)
        if free is not None:
            assigned[free] = instrument.patch
        elif instrument.patch and instrument.patch not in assigned.values():
            extras.append((name, instrument.slots[0], instrument.patch))
    if len(names) == 1 and "chords" in assigned and "lead" in INSTRUMENTS[names[0]].slots:
        assigned["lead"] = assigned["chords"]
    return assigned, extras


def _choose_slots(parsed: ParsedPrompt, genre: Genre, seed: int) -> set[str]:
    """Return the slots that play although the prompt does not mention them."""
    out = set(STYLES[parsed.style].extra_slots)
    for slot in SLOTS:
        likelihood = genre.likelihood.get(slot, 0.0)
        if 0 < likelihood < 1:
            likelihood += 0.3 * parsed.density
        if RandomStream(seed, "joins", slot).chance(likelihood):
            out.add(slot)
    return out


def _drop_excluded_slots(slots: set[str], parsed: ParsedPrompt) -> set[str]:
    """Remove the slots that are excluded as such ("no bass"), not just one of their sounds."""
    for name in parsed.instrumentation.excluded:
        instrument = INSTRUMENTS[name]
        names_slot = instrument.patch is None and not instrument.drums
        if names_slot or instrument.patch in ("vinyl", "wind", "noise-riser"):
            slots -= set(instrument.slots)
        if name == "chords":
            slots.discard("pad")
    if "drums" not in slots:
        slots.discard("impact")
    return slots


def _fill_up(slots: set[str], parsed: ParsedPrompt) -> None:
    """Add slots where fewer than `_FEWEST` would play, unless the prompt asks for little."""
    if parsed.density < -0.4:
        return
    names = parsed.instrumentation.excluded
    excluded = {slot for name in names for slot in INSTRUMENTS[name].slots}
    for slot in _FILL_UP:
        if len(slots - {"riser", "impact"}) >= _FEWEST:
            return
        if slot not in excluded:
            slots.add(slot)


def _make_voice(
    slot: str,
    patches: Mapping[str, str],
    parsed: ParsedPrompt,
    seed: int,
    *,
    plays_throughout: bool,
) -> Voice:
    genre = GENRES[parsed.genre]
    patch = patches[slot]
    mix = genre.mix.get(slot, MixSettings())
    boost = dict(parsed.instrumentation.emphasis)
    gain = sum(db for name, db in boost.items() if slot == INSTRUMENTS[name].slots[0])
    mix = replace(mix, gain_db=max(-6.0, min(4.0, mix.gain_db + gain)))
    drums = [
        INSTRUMENTS[name]
        for name in parsed.instrumentation.only
        if INSTRUMENTS[name].slots == ("drums",)
    ]
    only = frozenset(pitch for instrument in drums for pitch in instrument.drums)
    if any(not instrument.drums for instrument in drums):
        only = frozenset()
    muted = frozenset(
        pitch for name in parsed.instrumentation.excluded for pitch in INSTRUMENTS[name].drums
    )
    return Voice(
        slot,
        slot,
        patch,
        _choose_style(slot, patch, parsed, seed),
        mix,
        plays_throughout,
        slot in _assign_slots(parsed.instrumentation.requested, parsed.instrumentation)[0],
        only_pitches=only if slot == "drums" else frozenset(),
        muted_pitches=muted if slot == "drums" else frozenset(),
    )


def _choose_style(slot: str, patch: str, parsed: ParsedPrompt, seed: int) -> str:
    """Return the playing style of the named style or the patch, else one of the genre's."""
    style = STYLES[parsed.style]
    usual = GENRES[parsed.genre].playing_styles.get(slot, ("",))
    if slot == "bass":
        if style.bass and (patch == dict(style.patches).get("bass", patch)):
            return style.bass
        if patch in _BASS_STYLE_OF and _BASS_STYLE_OF[patch] not in usual:
            return _BASS_STYLE_OF[patch]
        if patch == "bass-acid":
            return "acid"
        usual = tuple(playing for playing in usual if playing != "acid")
    if slot == "chords":
        if patch in _SUSTAINED:
            return "sustain"
        if patch == "guitar-pluck":
            return "broken"
    return RandomStream(seed, "playing", slot).choice(usual)
