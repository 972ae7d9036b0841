"""Who plays: the genre's usual voices, those a prompt asks for, without those it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from services.generation.composer.dice import Dice
from services.generation.composer.genres import GENRES, Genre, Seat
from services.generation.composer.styles import STYLES
from services.generation.composer.vocabulary import INSTRUMENTS

if TYPE_CHECKING:
    from services.generation.composer.prompt import Understood
    from services.generation.composer.wishes import Wishes
    from services.generation.score import Role

SLOTS = ("drums", "bass", "chords", "pad", "lead", "arp", "texture", "riser", "impact")
"""In the order of the parts of a score."""

_ROLES: dict[str, Role] = {
    "drums": "drums", "bass": "bass", "chords": "chords", "pad": "pad", "lead": "lead",
    "arp": "arp", "texture": "texture", "riser": "texture", "impact": "texture",
}  # fmt: skip
_FILL_UP = ("pad", "lead", "chords", "arp")
_FEWEST = 5
_BASS_PLAYING = {
    "bass-808": "808",
    "bass-acid": "acid",
    "bass-reese": "reese",
    "bass-upright": "upright",
}
_SUSTAINED = ("strings", "pad-warm", "pad-supersaw")
"""Patches that hold their chords whatever the genre does."""
_INSTEAD = {
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
    """One part to be: its place in the band, its sound, and how it plays."""

    name: str
    slot: str
    patch: str
    playing: str
    seat: Seat
    everywhere: bool = False
    """Plays in every section, whatever its shape says."""
    asked: bool = False
    """The prompt asked for it: it plays in every section that is not quiet."""
    answers: bool = False
    """A second tune, which fills the gaps of the first."""
    pitches: frozenset[int] = frozenset()
    """For drums: the only pitches it plays; empty: all."""
    silent: frozenset[int] = frozenset()
    """For drums: pitches it leaves out."""

    @property
    def role(self) -> Role:
        """The role in the score."""
        return _ROLES[self.slot]


def choose_voices(understood: Understood, seed: int) -> tuple[Voice, ...]:
    """The band, in the order of the score; at least one voice."""
    genre = GENRES[understood.genre]
    wishes = understood.wishes
    patches = _patches(understood, genre, seed)
    asked, extras = _asked(wishes.only or wishes.wanted, wishes)
    patches |= {slot: patch for slot, patch in asked.items() if patch}
    refused = _refused_patches(wishes)
    _part_ways(patches, asked, genre, refused)
    if wishes.only:
        slots = set(asked)
    else:
        slots = _slots(understood, genre, seed) | set(asked)
        slots = _without(slots, understood)
        _fill_up(slots, understood)
    slots = {slot for slot in slots if slot in asked or patches[slot] not in refused} or {"pad"}
    lonely = bool(wishes.only) or len(slots - {"texture", "riser", "impact"}) == 1
    voices = [
        _voice(slot, patches, understood, seed, everywhere=lonely)
        for slot in SLOTS
        if slot in slots
    ]
    for name, slot, patch in extras:
        voice = _voice(slot, patches | {slot: patch}, understood, seed, everywhere=lonely)
        aside = replace(voice.seat, pan=-voice.seat.pan or 0.25, gain_db=voice.seat.gain_db - 2)
        voices.append(
            replace(voice, name=name.replace(" ", "-"), seat=aside, asked=True, answers=True)
        )
    return tuple(voices)


def _patches(understood: Understood, genre: Genre, seed: int) -> dict[str, str]:
    """A patch for each slot: often the genre's first; a refused one only where all are refused."""
    refused = _refused_patches(understood.wishes)
    own = dict(STYLES[understood.style].patches)
    out = {"drums": genre.kit}
    for slot, instead in _INSTEAD.items():
        usual = genre.patches.get(slot, instead)
        choices = [patch for patch in usual if patch not in refused]
        choices = choices or [patch for patch in instead if patch not in refused] or [usual[0]]
        weights = {patch: 1.0 / (rank + 1) for rank, patch in enumerate(choices)}
        out[slot] = Dice(seed, "patch", slot).pick(weights)
        if own.get(slot) not in (None, *refused):
            out[slot] = own[slot]
    if out["lead"] == out["chords"] and len(genre.patches["lead"]) > 1 and "lead" not in own:
        out["lead"] = _another("lead", out, genre, refused | {out["chords"]})
    return out


def _refused_patches(wishes: Wishes) -> frozenset[str]:
    patches = (INSTRUMENTS[name].patch for name in wishes.refused)
    return frozenset(patch for patch in patches if patch)


def _part_ways(
    patches: dict[str, str],
    asked: Mapping[str, str | None],
    genre: Genre,
    refused: frozenset[str],
) -> None:
    """Give chords or pad another sound where they would double a tune or each other, in place."""
    if patches["chords"] == patches["lead"] and "lead" in asked and "chords" not in asked:
        taken = refused | {patches["lead"], *_SUSTAINED}
        patches["chords"] = _another("chords", patches, genre, taken)
    if patches["chords"] == patches["pad"]:
        slot = "chords" if "pad" in asked else "pad"
        if slot not in asked:
            taken = refused | {patches["pad"], patches["lead"]}
            patches[slot] = _another(slot, patches, genre, taken)


def _another(slot: str, patches: Mapping[str, str], genre: Genre, taken: frozenset[str]) -> str:
    """The genre's first patch for a slot that is not taken; where all are, the one it has."""
    others = (*genre.patches[slot], *_INSTEAD[slot])
    return next((patch for patch in others if patch not in taken), patches[slot])


def _asked(
    names: tuple[str, ...], wishes: Wishes
) -> tuple[dict[str, str | None], list[tuple[str, str, str]]]:
    """Seat what was asked for: slot -> patch, and (name, slot, patch) of those left standing."""
    seats = dict(wishes.seats)
    seated: dict[str, str | None] = {}
    extras: list[tuple[str, str, str]] = []
    # What names a sound has its choice of seat before what only names a seat.
    # What was given a seat by the prompt comes first of all.
    for name in sorted(names, key=lambda name: (name not in seats, not INSTRUMENTS[name].patch)):
        instrument = INSTRUMENTS[name]
        slots = (seats[name], *instrument.slots) if name in seats else instrument.slots
        free = next((slot for slot in slots if slot not in seated), None)
        if free is not None:
            seated[free] = instrument.patch
        elif instrument.patch and instrument.patch not in seated.values():
            extras.append((name, instrument.slots[0], instrument.patch))
    if len(names) == 1 and "chords" in seated and "lead" in INSTRUMENTS[names[0]].slots:
        seated["lead"] = seated["chords"]
    return seated, extras


def _slots(understood: Understood, genre: Genre, seed: int) -> set[str]:
    """Who joins without being asked."""
    out = set(STYLES[understood.style].add)
    for slot in SLOTS:
        likely = genre.likely.get(slot, 0.0)
        if 0 < likely < 1:
            likely += 0.3 * understood.density
        if Dice(seed, "joins", slot).chance(likely):
            out.add(slot)
    return out


def _without(slots: set[str], understood: Understood) -> set[str]:
    """Take out the seats that were refused as such ("no bass"), not just one of their sounds."""
    for name in understood.wishes.refused:
        instrument = INSTRUMENTS[name]
        seat_only = instrument.patch is None and not instrument.drums
        if seat_only or instrument.patch in ("vinyl", "wind", "noise-riser"):
            slots -= set(instrument.slots)
        if name == "chords":
            slots.discard("pad")
    if "drums" not in slots:
        slots.discard("impact")
    return slots


def _fill_up(slots: set[str], understood: Understood) -> None:
    """Let more join where fewer than five would play, unless little was wanted."""
    if understood.density < -0.4:
        return
    refused = {slot for name in understood.wishes.refused for slot in INSTRUMENTS[name].slots}
    for slot in _FILL_UP:
        if len(slots - {"riser", "impact"}) >= _FEWEST:
            return
        if slot not in refused:
            slots.add(slot)


def _voice(
    slot: str, patches: Mapping[str, str], understood: Understood, seed: int, *, everywhere: bool
) -> Voice:
    genre = GENRES[understood.genre]
    patch = patches[slot]
    seat = genre.seats.get(slot, Seat())
    boost = dict(understood.wishes.emphasis)
    gain = sum(db for name, db in boost.items() if slot == INSTRUMENTS[name].slots[0])
    seat = replace(seat, gain_db=max(-6.0, min(4.0, seat.gain_db + gain)))
    drums = [
        INSTRUMENTS[name]
        for name in understood.wishes.only
        if INSTRUMENTS[name].slots == ("drums",)
    ]
    only = frozenset(pitch for instrument in drums for pitch in instrument.drums)
    if any(not instrument.drums for instrument in drums):
        only = frozenset()
    silent = frozenset(
        pitch for name in understood.wishes.refused for pitch in INSTRUMENTS[name].drums
    )
    return Voice(
        slot,
        slot,
        patch,
        _playing(slot, patch, understood, seed),
        seat,
        everywhere,
        slot in _asked(understood.wishes.wanted, understood.wishes)[0],
        pitches=only if slot == "drums" else frozenset(),
        silent=silent if slot == "drums" else frozenset(),
    )


def _playing(slot: str, patch: str, understood: Understood, seed: int) -> str:
    """How it plays: the patch's own way, the style's, or one of the genre's."""
    style = STYLES[understood.style]
    usual = GENRES[understood.genre].playing.get(slot, ("",))
    if slot == "bass":
        if style.bass and (patch == dict(style.patches).get("bass", patch)):
            return style.bass
        if patch in _BASS_PLAYING and _BASS_PLAYING[patch] not in usual:
            return _BASS_PLAYING[patch]
        if patch == "bass-acid":
            return "acid"
        usual = tuple(way for way in usual if way != "acid" or patch == "bass-acid")
    if slot == "chords":
        if patch in _SUSTAINED:
            return "sustain"
        if patch == "guitar-pluck":
            return "broken"
    return Dice(seed, "playing", slot).choice(usual)
