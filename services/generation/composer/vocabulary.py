"""The words that a prompt may use for moods, instruments, sections and feel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.generation.score import Mode


@dataclass(frozen=True, slots=True)
class Mood:
    """Shifts from the genre's own, -1..1 (register: semitones); `words` is a regular expression."""

    words: str
    mode: Mode | None = None
    energy: float = 0.0
    brightness: float = 0.0
    density: float = 0.0
    register: int = 0


MOODS: dict[str, Mood] = {
    "dark": Mood(r"dark|sinister|evil|menacing|gloomy|noir|gothic", "minor", 0, -0.5, 0, -2),
    "aggressive": Mood(
        r"aggressive|angry|hard|brutal|gritty|violent|intense|banger", "phrygian", 0.4, 0.2, 0.4, -2
    ),
    "scary": Mood(r"scary|creepy|eerie|horror|haunt(?:ed|ing)|spooky", "phrygian", 0, -0.3, -0.2),
    "mysterious": Mood(r"myster(?:y|ious)|exotic|oriental|arabic", "phrygian", -0.1, -0.2, -0.1),
    "sad": Mood(
        r"sad|sorrow(?:ful)?|heartbr(?:eak|oken)|crying|lonely|tragic", "minor", -0.3, -0.2, -0.3
    ),
    "melancholic": Mood(
        r"melanchol(?:y|ic)|nostalgi[ac]|wistful|bittersweet|moody|emotional|rainy|ballads?",
        "minor",
        -0.2,
        -0.2,
        -0.2,
    ),
    "happy": Mood(
        r"happy|cheerful|joy(?:ful|ous)?|fun|playful|sunny|bright|cute", "major", 0.2, 0.3, 0.2, 2
    ),
    "uplifting": Mood(
        r"uplifting|hopeful|inspir(?:ing|ational)|positive|euphoric|triumphant|motivational",
        "major",
        0.3,
        0.3,
        0.1,
        2,
    ),
    "epic": Mood(r"epic|heroic|majestic|massive|huge|anthemic", "minor", 0.4, 0.2, 0.2),
    "romantic": Mood(r"romantic|love|tender|sensual|sexy|intimate", "major", -0.2, -0.1, -0.2),
    "dreamy": Mood(
        r"dream(?:y|ing)?|ethereal|hazy|floating|celestial|space(?! for\b)|spac(?:ey|y)"
        r"|hypnotic|psychedelic",
        "lydian",
        -0.2,
        0.0,
        -0.2,
        3,
    ),
    "chill": Mood(
        r"chill(?:ed)?|relax(?:ed|ing)?|laid[ -]back|mellow|smooth|cozy|easy",
        None,
        -0.3,
        -0.2,
        -0.3,
    ),
    "calm": Mood(
        r"calm(?:ing)?|peaceful|serene|gentle|soft|quiet|soothing|tranquil",
        "major",
        -0.4,
        -0.3,
        -0.4,
    ),
    "energetic": Mood(
        r"energetic|high[ -]energy|hype|upbeat|driving|powerful|pumping|party|lively|exciting",
        None,
        0.4,
        0.2,
        0.3,
    ),
    "groovy": Mood(r"groovy|bouncy|funky|danceable", "dorian", 0.1, 0.0, 0.2),
    "warm": Mood(r"warm|vintage|analog(?:ue)?|cosy|dusty", None, -0.1, -0.3, 0.0),
    "sparse": Mood(r"sparse|minimal(?:ist|istic)?|simple|stripped|bare", None, -0.2, 0.0, -0.5),
    "busy": Mood(r"busy|complex|dense|layered|intricate|lush", None, 0.1, 0.0, 0.5),
}


@dataclass(frozen=True, slots=True)
class Instrument:
    """An instrument that a prompt may request or exclude; `words` is a regular expression."""

    words: str
    slots: tuple[str, ...]
    """The slots it may take, best first; see `voices.SLOTS`."""
    patch: str | None = None
    """None for the genre's own in that slot."""
    drums: tuple[int, ...] = ()
    """Its pitches in the General MIDI percussion map, for one drum of the kit."""


INSTRUMENTS: dict[str, Instrument] = {
    "808 bass": Instrument(
        r"808'?s?(?:[ -]?bass(?:line)?)?|sliding bass|log[ -]?drums?", ("bass",), "bass-808"
    ),
    "sub bass": Instrument(r"sub(?:[ -]?bass)?", ("bass",), "bass-sub"),
    "reese bass": Instrument(
        r"reese(?:[ -]bass)?|growl(?:ing)? bass|wobble(?: bass)?", ("bass",), "bass-reese"
    ),
    "acid bass": Instrument(r"acid (?:bass|line)(?:line)?|303|tb-?303", ("bass",), "bass-acid"),
    "upright bass": Instrument(
        r"(?:upright|double|acoustic|stand[ -]?up|jazz) bass|contrabass", ("bass",), "bass-upright"
    ),
    "synth bass": Instrument(
        r"(?:synth|analog(?:ue)?|moog|electric|slap|pluck(?:ed|y)?) bass(?:line)?|bass guitar",
        ("bass",),
        "bass-saw",
    ),
    "bass": Instrument(r"bass(?:[ -]?lines?)?|low end", ("bass",)),
    "rhodes": Instrument(
        r"rhodes|electric pianos?|e-?piano|wurli(?:tzer)?|fender keys",
        ("chords", "lead"),
        "keys-rhodes",
    ),
    "piano": Instrument(
        r"(?:felt |grand |upright |soft )?pianos?", ("chords", "lead", "arp"), "keys-piano"
    ),
    "organ": Instrument(r"(?:church |hammond )?organs?|hammond", ("chords", "pad"), "keys-organ"),
    "keys": Instrument(r"keys|keyboards?(?: chords)?", ("chords",)),
    "stabs": Instrument(r"(?:chord |synth )?stabs?", ("chords",), "stab-house"),
    "strings": Instrument(
        r"strings?|violins?|violas?|cellos?|string (?:section|quartet|ensemble)",
        ("pad", "chords"),
        "strings",
    ),
    "choir": Instrument(r"choirs?|voices|vocals?|vox|chants?", ("pad",), "pad-air"),
    "supersaw": Instrument(
        r"super ?saws?(?: (?:chords|pads?|leads?))?", ("pad", "chords"), "pad-supersaw"
    ),
    "airy pad": Instrument(r"(?:airy|wide|shimmer(?:ing)?|ethereal) pads?", ("pad",), "pad-air"),
    "pad": Instrument(r"(?:synth |warm |lush |ambient )?pads?", ("pad",)),
    "chords": Instrument(r"chords?(?: progressions?)?|harmon(?:y|ies)", ("chords",)),
    "bells": Instrument(
        r"bells?|glockenspiel|celesta|music ?box|chimes?|vibraphone|vibes(?= (?:solo|lead|part))",
        ("lead", "arp"),
        "lead-bell",
    ),
    "mallets": Instrument(
        r"marimbas?|kalimbas?|xylophones?|mallets?|steel drums?|hang drum",
        ("lead", "arp"),
        "lead-pluck",
    ),
    "flute": Instrument(
        r"flutes?|pan ?pipes?|whistle|ocarina|recorder|clarinets?|woodwinds?",
        ("lead",),
        "lead-flute",
    ),
    "guitar": Instrument(
        r"(?:acoustic |electric |nylon |spanish |classical |clean )?guitars?"
        r"|ukulele|banjo|lute|sitar|koto",
        ("arp", "chords", "lead"),
        "guitar-pluck",
    ),
    "harp": Instrument(r"harps?", ("arp", "lead"), "guitar-pluck"),
    "brass": Instrument(
        r"brass|horns?|trumpets?|trombones?|saxophones?|sax(?:es)?",
        ("lead", "chords"),
        "brass-synth",
    ),
    "saw lead": Instrument(r"(?:saw|screaming|distorted) (?:lead|synth)s?", ("lead",), "lead-saw"),
    "square lead": Instrument(r"square (?:wave|lead)s?(?: lead)?", ("lead",), "lead-square"),
    "pluck": Instrument(r"pluck(?:s|ed synth|y synth)?", ("lead", "arp"), "lead-pluck"),
    "arpeggio": Instrument(r"arp(?:s|eggios?|eggiator|eggiated)?|sequence[rd]?", ("arp",)),
    "lead": Instrument(
        r"(?:synth )?leads?|melod(?:y|ies|ic line)|tune|hook|riff|topline|solo(?= (?:line|part))",
        ("lead",),
    ),
    "synths": Instrument(r"synth(?:s|esi[sz]ers?)?", ("lead", "pad")),
    "vinyl": Instrument(
        r"vinyl(?: (?:crackle|noise|hiss))?|crackle|tape hiss|record noise", ("texture",), "vinyl"
    ),
    "wind": Instrument(
        r"wind(?: (?:noise|sounds?))?|ocean|waves(?= crashing)|rain(?: sounds?)?|nature sounds",
        ("texture",),
        "wind",
    ),
    "risers": Instrument(r"risers?|sweeps?|white noise", ("riser",), "noise-riser"),
    "kick": Instrument(r"kicks?(?: drums?)?|bass drums?", ("drums",), None, (35, 36)),
    "snare": Instrument(r"snares?(?: drums?)?|backbeat", ("drums",), None, (37, 38, 40)),
    "claps": Instrument(r"(?:hand ?)?claps?|finger snaps?|snaps?", ("drums",), None, (39,)),
    "hats": Instrument(
        r"(?:crisp |open |closed )?hi[ -]?hats?|hats?(?: rolls?)?", ("drums",), None, (42, 44, 46)
    ),
    "toms": Instrument(r"toms?(?: fills?)?|tom[ -]toms?", ("drums",), None, (41, 45, 48)),
    "cymbals": Instrument(r"cymbals?|crash(?:es)?|rides?", ("drums",), None, (49, 51)),
    "cowbell": Instrument(r"cow ?bells?", ("drums",), None, (56,)),
    "shaker": Instrument(r"shakers?|maracas?", ("drums",), None, (70,)),
    "tambourine": Instrument(r"tambourines?", ("drums",), None, (54,)),
    "percussion": Instrument(
        r"percussions?|bongos?|congas?|perc|claves?", ("drums",), None, (37, 54, 56, 70, 75)
    ),
    "drums": Instrument(
        r"drums?(?: (?:kit|machine|loop|beat|break|track|pattern|groove)s?)?"
        r"|drumming|breakbeat|909'?s?|rhythm section",
        ("drums",),
    ),
}
"""Name -> instrument; of overlapping matches the longest counts."""

FASTER = r"fast(?:er|-paced)?|up[ -]?tempo|quick|high[ -]tempo|speedy|rapid"
SLOWER = r"slow(?:er|ed|ly)?|down[ -]?tempo|half[ -]?time|sluggish|low[ -]tempo|unhurried"

COUNTS: dict[str, int] = {"one": 1, "two": 2, "four": 4, "eight": 8, "sixteen": 16}
"""Numbers of bars that are written as words."""

STRUCTURE: dict[str, str] = {
    "drop": r"drops?",
    "build": r"build[ -]?ups?|builds?|rising|crescendo",
    "break": r"break[ -]?downs?|breaks?|bridge",
    "intro": r"intros?",
    "outro": r"outros?|fade[ -]?out|ending",
    "hook": r"hook|chorus",
    "verse": r"verses?",
}

BARS = r"(\d{1,3}|" + "|".join(COUNTS) + r")[ -]?bars?(?![ -]blues)"
LOOP = r"loop(?:s|ed|able|ing)?|seamless(?:ly)?"
STRAIGHT = r"straight|quanti[sz]ed|un-?swung|no swing"
SWUNG = r"swing|swung|shuffled?|off-?grid|dilla"
MORE = (
    r"heavy|big|deep|loud|massive|fat|strong|huge|thick|booming|prominent|punchy|more|lots of"
    r"|hard(?:[ -]hitting)?"
)
LESS = r"subtle|quiet|light|soft|less|gentle|faint|a little|slight"
