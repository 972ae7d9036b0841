"""The styles a prompt may name: the genre each is played as, and what it changes there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.generation.score import Mode


@dataclass(frozen=True, slots=True)
class Style:
    """None and empty fields leave the genre as it is."""

    genre: str
    """The genre it is played as."""
    tempo: tuple[float, float, float] | None = None
    """Slowest, usual and fastest, in BPM."""
    groove: str | None = None
    """A name in `grooves.GROOVES`."""
    patches: tuple[tuple[str, str], ...] = ()
    """(slot, patch) in place of the genre's."""
    bass: str | None = None
    """A name in `bass.BASS_STYLES`."""
    swing: float | None = None
    mode: Mode | None = None
    colour: str | None = None
    """Chord colour: power, triad, seventh or ninth."""
    extra_slots: tuple[str, ...] = ()
    """Slots that always play."""


STYLES: dict[str, Style] = {
    "trap": Style("trap"),
    "hip-hop": Style("hip-hop"),
    "lo-fi": Style("lo-fi"),
    "house": Style("house"),
    "techno": Style("techno"),
    "drum and bass": Style("drum and bass"),
    "ambient": Style("ambient"),
    "synthwave": Style("synthwave"),
    "drill": Style("trap", (138, 142, 148), groove="drill", mode="minor"),
    "phonk": Style(
        "trap", (125, 135, 160), groove="phonk", patches=(("lead", "lead-square"),), mode="phrygian"
    ),
    "grime": Style("trap", (138, 140, 142), groove="drill", patches=(("lead", "lead-square"),)),
    "dubstep": Style(
        "trap", (138, 140, 145), groove="half-time", patches=(("bass", "bass-reese"),), bass="reese"
    ),
    "rage": Style("trap", (140, 150, 165), patches=(("lead", "lead-saw"), ("pad", "pad-supersaw"))),
    "cloud rap": Style(
        "trap", (120, 130, 145), patches=(("pad", "pad-air"),), extra_slots=("pad",)
    ),
    "boom bap": Style("hip-hop", (82, 90, 98)),
    "funk": Style(
        "hip-hop",
        (96, 104, 116),
        patches=(("bass", "bass-saw"), ("chords", "guitar-pluck"), ("lead", "brass-synth")),
        swing=0.54,
        mode="dorian",
        colour="ninth",
    ),
    "r&b": Style("hip-hop", (68, 78, 95), patches=(("chords", "keys-rhodes"),), colour="ninth"),
    "soul": Style("hip-hop", (70, 84, 98), patches=(("chords", "keys-organ"),), colour="seventh"),
    "reggaeton": Style("hip-hop", (88, 95, 102), groove="dembow", swing=0.5, mode="minor"),
    "reggae": Style("hip-hop", (70, 76, 84), patches=(("chords", "keys-organ"),), mode="major"),
    "g-funk": Style("hip-hop", (88, 94, 100), patches=(("lead", "lead-saw"),), mode="minor"),
    "jazz": Style(
        "lo-fi",
        (84, 104, 132),
        groove="brushes",
        patches=(("bass", "bass-upright"), ("chords", "keys-piano")),
        bass="walking",
        swing=0.6,
        colour="ninth",
    ),
    "bossa nova": Style(
        "lo-fi",
        (110, 126, 140),
        groove="bossa",
        patches=(("bass", "bass-upright"), ("chords", "guitar-pluck")),
        swing=0.5,
        colour="ninth",
    ),
    "acoustic": Style("lo-fi", (80, 92, 110), patches=(("chords", "guitar-pluck"),), swing=0.52),
    "deep house": Style(
        "house", (118, 121, 124), groove="deep", patches=(("chords", "keys-rhodes"),), bass="groove"
    ),
    "tech house": Style("house", (124, 126, 129), bass="groove", colour="triad"),
    "progressive house": Style(
        "house", (122, 125, 128), patches=(("pad", "pad-supersaw"),), bass="offbeat", colour="triad"
    ),
    "disco": Style(
        "house",
        (112, 118, 124),
        patches=(("chords", "strings"), ("bass", "bass-saw")),
        bass="octaves",
    ),
    "garage": Style(
        "house", (128, 132, 138), groove="two-step", bass="groove", swing=0.58, colour="ninth"
    ),
    "trance": Style(
        "house",
        (132, 138, 142),
        groove="trance",
        patches=(("pad", "pad-supersaw"), ("lead", "lead-saw"), ("arp", "arp-pluck")),
        bass="rolling",
        swing=0.5,
        mode="minor",
        colour="triad",
        extra_slots=("arp", "pad"),
    ),
    "amapiano": Style("house", (110, 113, 116), groove="deep", bass="808", colour="seventh"),
    "afrobeats": Style("house", (98, 106, 114), groove="afro", bass="groove", mode="major"),
    "pop": Style(
        "house",
        (100, 116, 126),
        patches=(("chords", "keys-piano"), ("lead", "lead-pluck")),
        mode="major",
        colour="triad",
        swing=0.5,
    ),
    "acid house": Style("house", (118, 123, 128), patches=(("bass", "bass-acid"),), bass="acid"),
    "acid": Style("techno", (125, 132, 140), patches=(("bass", "bass-acid"),), bass="acid"),
    "minimal": Style("techno", (120, 126, 130)),
    "industrial": Style("techno", (130, 138, 148), mode="phrygian"),
    "hardstyle": Style(
        "techno", (145, 150, 155), patches=(("pad", "pad-supersaw"), ("lead", "lead-saw"))
    ),
    "psytrance": Style(
        "techno", (138, 143, 148), patches=(("bass", "bass-acid"),), bass="rolling", mode="phrygian"
    ),
    "idm": Style("techno", (105, 122, 140), groove="break", patches=(("lead", "lead-bell"),)),
    "jungle": Style(
        "drum and bass", (160, 166, 172), groove="amen", patches=(("bass", "bass-sub"),)
    ),
    "liquid drum and bass": Style(
        "drum and bass",
        (172, 174, 176),
        patches=(("chords", "keys-rhodes"), ("bass", "bass-sub"), ("pad", "pad-warm")),
        colour="ninth",
    ),
    "neurofunk": Style("drum and bass", (172, 174, 178), bass="reese", mode="phrygian"),
    "breakbeat": Style("drum and bass", (125, 134, 145), groove="break"),
    "footwork": Style("drum and bass", (155, 160, 164), groove="amen"),
    "cinematic": Style(
        "ambient",
        (68, 80, 100),
        groove="cinematic",
        patches=(("chords", "strings"), ("lead", "keys-piano")),
        extra_slots=("drums", "chords"),
    ),
    "orchestral": Style(
        "ambient",
        (70, 86, 110),
        groove="cinematic",
        patches=(("chords", "strings"), ("lead", "lead-flute"), ("pad", "strings")),
        extra_slots=("drums", "chords"),
    ),
    "classical": Style(
        "ambient",
        (66, 84, 112),
        patches=(("chords", "keys-piano"), ("pad", "strings"), ("lead", "lead-flute")),
        extra_slots=("chords", "lead"),
    ),
    "meditation": Style("ambient", (50, 60, 70)),
    "drone": Style("ambient", (45, 56, 66), mode="dorian"),
    "new age": Style("ambient", (60, 70, 84), patches=(("lead", "lead-flute"),), mode="major"),
    "outrun": Style("synthwave", (104, 112, 122)),
    "retrowave": Style("synthwave", (90, 100, 112)),
    "chillwave": Style("synthwave", (78, 88, 100), patches=(("pad", "pad-warm"),)),
    "vaporwave": Style("synthwave", (68, 80, 92), patches=(("chords", "keys-rhodes"),)),
    "darksynth": Style("synthwave", (108, 118, 128), patches=(("lead", "lead-saw"),), mode="minor"),
    "rock": Style(
        "synthwave",
        (108, 122, 140),
        patches=(("chords", "guitar-pluck"), ("lead", "lead-saw")),
        colour="power",
    ),
    "metal": Style("synthwave", (120, 140, 165), mode="phrygian", colour="power"),
    "chiptune": Style(
        "synthwave", (120, 140, 160), patches=(("lead", "lead-square"), ("arp", "lead-square"))
    ),
    "hyperpop": Style("synthwave", (140, 150, 165), patches=(("lead", "lead-saw"),), mode="major"),
}
"""Name -> style; the first eight are the genres themselves."""

STYLE_WORDS: dict[str, str] = {
    "trap": "trap",
    "hip-hop": r"hip[ -]?hop|rap(?! ?god)|old[ -]school beat",
    "lo-fi": r"lo[ -]?fi(?:[ -]hip[ -]?hop)?|chill[ -]?hop|study beats?|jazz[ -]?hop",
    "house": r"house|edm|club|dance music|big[ -]room|eurodance|electro(?:nic)?(?: dance)?",
    "techno": r"techno|rave",
    "drum and bass": r"drum(?: ?and ?| ?& ?| ?'?n'? ?)bass|dnb|d ?& ?b|d'n'b",
    "ambient": r"(?:dark |space )?ambient|soundscape|atmospheric",
    "synthwave": r"synth[ -]?wave|80s|eighties|synth[ -]?pop|new wave",
    "drill": r"(?:uk |ny |brooklyn )?drill",
    "phonk": r"(?:drift )?phonk",
    "grime": "grime",
    "dubstep": r"dub ?step|brostep|riddim",
    "rage": r"rage(?: beats?)?",
    "cloud rap": r"cloud (?:rap|trap)",
    "boom bap": r"boom[ -]?bap",
    "funk": r"funk(?:y)?",
    "r&b": r"r ?& ?b|rnb|r'n'b|rhythm and blues",
    "soul": r"(?:neo[ -]?)?soul(?:ful)?|gospel|blues",
    "reggaeton": r"reggaet[oó]n|dembow|latin",
    "reggae": r"reggae|dub|ska",
    "g-funk": r"g[ -]funk|west coast",
    "jazz": r"jazz(?:y)?|swing(?= band| music)|bebop",
    "bossa nova": r"bossa(?: nova)?|samba",
    "acoustic": r"acoustic|folk|country|singer[ -]songwriter|indie",
    "deep house": r"deep[ -]house|melodic house",
    "tech house": r"tech[ -]house",
    "progressive house": r"prog(?:ressive)?[ -]house|future bass",
    "disco": r"(?:nu[ -])?disco|french house",
    "garage": r"(?:uk |speed )?garage|ukg|2[ -]?step|two[ -]step",
    "trance": r"(?:uplifting |vocal )?trance",
    "amapiano": "amapiano",
    "afrobeats": r"afro ?beats?|afro[ -]?house|afro",
    "pop": r"k?[ -]?pop|radio hit",
    "acid house": r"acid[ -]house",
    "acid": r"acid(?:[ -]techno)?(?![ -]house)",
    "minimal": r"minimal(?:[ -]techno)?",
    "industrial": r"industrial(?:[ -]techno)?|ebm",
    "hardstyle": r"hard[ -]?style|hard[ -]?core|gabber",
    "psytrance": r"psy[ -]?trance|goa",
    "idm": r"idm|glitch(?:[ -]hop)?",
    "jungle": r"jungle|ragga",
    "liquid drum and bass": r"liquid(?: (?:dnb|drum(?: ?and ?| ?& ?| ?'?n'? ?)bass|d ?& ?b))",
    "neurofunk": r"neuro ?funk|neuro",
    "breakbeat": r"break[ -]?beats?|breaks",
    "footwork": r"foot ?work|juke",
    "cinematic": r"cinematic|film score|trailer|soundtrack|movie",
    "orchestral": r"orchestral?|symphon(?:y|ic)|epic score",
    "classical": r"classical|baroque|chamber music|sonata|waltz|minimalis[mt]",
    "meditation": r"meditat(?:ion|ive)|yoga|spa|sleep|healing|zen",
    "drone": "drone",
    "new age": r"new[ -]age|celtic|nature music",
    "outrun": r"out ?run",
    "retrowave": r"retro[ -]?wave|retro",
    "chillwave": r"chill[ -]?wave|down[ -]?tempo|trip[ -]hop|chill[ -]?out",
    "vaporwave": r"vapou?r[ -]?wave",
    "darksynth": r"dark[ -]?synth|cyber ?punk|dark[ -]wave",
    "rock": r"(?:post[ -]|punk |hard |indie )?rock|punk|grunge",
    "metal": r"(?:heavy |death |black )?metal(?!lic)",
    "chiptune": r"chip[ -]?tune|8[ -]?bit|game ?boy|video ?game|nintendo",
    "hyperpop": r"hyper[ -]?pop",
}
"""Style -> regular expression of its names in lower-case text."""
