"""The grooves: for each a choice of drum patterns, and how it fills and varies them.

A bar is sixteen characters: X accented, x played, o softer, - a ghost, . nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

KICK, SOFT_KICK, RIM, SNARE, CLAP, GHOST = 36, 35, 37, 38, 39, 40
HAT, PEDAL, OPEN, LOW_TOM, MID_TOM, HIGH_TOM = 42, 44, 46, 41, 45, 48
CRASH, RIDE, TAMBOURINE, COWBELL, SHAKER, PERC = 49, 51, 54, 56, 70, 75

VELOCITY = {"X": 0.95, "x": 0.8, "o": 0.6, "-": 0.36}

Pattern = tuple[str, ...]
"""One, two or four bars, repeated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Groove:
    """The drum patterns of a style. A piece uses one pattern from each tuple."""

    kick: tuple[Pattern, ...]
    snare: tuple[Pattern, ...]
    hat: tuple[Pattern, ...]
    snare_pitches: tuple[int, ...] = (SNARE,)
    kick_pitch: int = KICK
    hat_pitch: int = HAT
    open_hat: tuple[Pattern, ...] = ((),)
    ghosts: tuple[Pattern, ...] = ((),)
    extra: tuple[tuple[int, Pattern], ...] = ()
    """(pitch, pattern) of further percussion; a piece takes up to two."""
    ride: Pattern = ()
    """Pattern of the ride in the sections of most energy."""
    kick_freedom: float = 0.0
    """Probability that a bar drops or adds a kick off the beat."""
    rolls: float = 0.0
    """Probability that a bar has a hat roll."""
    crash: bool = True
    """Loud sections start with a crash."""
    fills: tuple[str, ...] = ("snare",)
    """Names in `drums.FILLS`, or "none"."""


_FOUR = ("X...X...X...X...",)
_BACKBEAT = ("....X.......X...",)
_HALF = ("........X.......",)
_EIGHTHS = ("x.o.x.o.x.o.x.o.",)
_SIXTEENTHS = ("x-o-x-o-x-o-x-o-",)
_OFFBEATS = ("..x...x...x...x.",)

_TRAP_KICKS = (
    ("X.....x...x.....", "X.....x...x..x.."),
    ("X..x......x..x..", "X..x......x....."),
    ("X.....x.....x...", "X..x..x.....x..."),
    ("X......x..x.....", "X..x.......x..x."),
    ("X..x..x...x..x..", "X.....x...x....."),
)

GROOVES: dict[str, Groove] = {
    "trap": Groove(
        kick=_TRAP_KICKS,
        snare=(_HALF, ("........X.......", "........X.....o.")),
        snare_pitches=(SNARE, CLAP),
        hat=(
            ("x.x.x.x.x.x.x.x.",),
            ("x.o.x.o.x.o.xxo.",),
            ("xoxoxoxoxoxoxoxo", "x.x.x.x.x.x.x.x."),
        ),
        open_hat=(("..............x.", "................"), ("......x.........", ""), ("",)),
        extra=(
            (RIM, ("...o......o.....", "......o.....o...")),
            (PERC, ("............o.o.", "")),
            (RIM, ("......o.......o.",)),
        ),
        kick_freedom=0.2,
        rolls=0.55,
        fills=("roll", "cut", "snare", "triplets"),
    ),
    "drill": Groove(
        kick=(
            ("X.....x....x....", "X..x......x....."),
            ("X..x.......x....", "..x...x...x....."),
        ),
        snare=(("........X.......", "............X..."),),
        snare_pitches=(SNARE, CLAP),
        hat=(("x..x..x.x..x..x.",), ("x..x..x...x..x..",)),
        open_hat=(("", "......x........."), ("",)),
        extra=((RIM, ("......o.......o.",)), (PERC, ("...o..o.........",))),
        rolls=0.45,
        fills=("roll", "cut", "triplets"),
    ),
    "phonk": Groove(
        kick=(("X.....x...X.....", "X..x..x...X....."), ("X..X..X...X..X..",)),
        snare=(_BACKBEAT, _HALF),
        snare_pitches=(SNARE, CLAP),
        hat=(_EIGHTHS, _SIXTEENTHS),
        open_hat=(_OFFBEATS, ("",)),
        extra=(
            (COWBELL, ("x..x..x.x..x..x.", "x..x..x...x.x...")),
            (COWBELL, ("x.x..x.xx.x..x..",)),
        ),
        rolls=0.3,
        fills=("roll", "cut"),
    ),
    "half-time": Groove(
        kick=(("X.....x.........", "X..x......x....."), ("X.........x.....",)),
        snare=(_HALF,),
        snare_pitches=(SNARE, CLAP),
        hat=(_EIGHTHS, ("x.x.x.oxx.x.xoxo",)),
        open_hat=(("..............x.", ""),),
        extra=((RIM, ("...o..o.....o...",)), (PERC, ("......o...o.....",))),
        ride=("x...x...x...x...",),
        kick_freedom=0.2,
        fills=("snare", "toms", "cut"),
    ),
    "boom-bap": Groove(
        kick=(
            ("X......x..x.....", "X......x.xx....."),
            ("X.x.......x.....", "X.x....x..x....."),
            ("X.......x.x.....", "X..x....x.x....."),
            ("X......x.xx.....", "X.....xx..x....."),
        ),
        snare=(_BACKBEAT,),
        hat=(_EIGHTHS, ("x.x.x.xox.x.x.x.",), ("x.o.x.o.x.o-x.o.",)),
        open_hat=(("", "..............x."), ("......x.........", ""), ("",)),
        ghosts=((".......-.-......", ".......-.......-"), (".........-.....-",), ("",)),
        extra=(
            (TAMBOURINE, ("....o.......o...",)),
            (SHAKER, ("o-o-o-o-o-o-o-o-",)),
            (RIM, ("...o..........o.", "")),
        ),
        ride=("x...x...x...x...",),
        kick_freedom=0.25,
        fills=("snare", "cut", "kick", "break"),
    ),
    "lo-fi": Groove(
        crash=False,
        kick=(
            ("X......x..o.....", "X.........x....."),
            ("X.........x..o..", "X......x..x....."),
            ("X.....x...x.....", "X.....x........."),
        ),
        snare=(_BACKBEAT,),
        hat=(_EIGHTHS, ("x.o.x.o.x.o.x-o.",), ("o.x.o.x.o.x.o.x.",)),
        open_hat=(("", "..............o."), ("",)),
        ghosts=((".......-........", ".........-.....-"), ("",)),
        extra=((RIM, ("..............o.", "...o............")), (SHAKER, ("--o---o---o---o-",))),
        kick_freedom=0.2,
        fills=("cut", "snare", "kick"),
    ),
    "brushes": Groove(
        crash=False,
        kick=(("o.......o.......", "o.......o..o...."),),
        kick_pitch=SOFT_KICK,
        snare=(("....-.......-...",), ("....-..-....-...",)),
        snare_pitches=(GHOST,),
        hat=(("x...x..ox...x..o",),),
        hat_pitch=RIDE,
        open_hat=(("",),),
        ghosts=(("..........-.....", "......-........-"),),
        extra=((PEDAL, ("....x.......x...",)), (RIM, ("............o...", ""))),
        fills=("snare", "toms"),
    ),
    "bossa": Groove(
        crash=False,
        kick=(("x.....ox......o.",), ("x.....x.x.....x.",)),
        kick_pitch=SOFT_KICK,
        snare=(("x..x..x...x..x..",), ("x..x...x..x..x..",)),
        snare_pitches=(RIM,),
        hat=(_EIGHTHS,),
        extra=((SHAKER, ("o-o-o-o-o-o-o-o-",)), (TAMBOURINE, ("....o.......o...",))),
        fills=("toms", "snare"),
    ),
    "dembow": Groove(
        kick=(_FOUR, ("X.......X.......",)),
        snare=(("...x..x....x..x.",),),
        snare_pitches=(SNARE, RIM),
        hat=(_EIGHTHS,),
        open_hat=(("", "..............x."),),
        extra=((SHAKER, ("o-o-o-o-o-o-o-o-",)), (PERC, ("..o...o...o..o..",))),
        fills=("snare", "toms", "cut"),
    ),
    "house": Groove(
        kick=(_FOUR,),
        snare=(_BACKBEAT,),
        snare_pitches=(CLAP,),
        hat=(("o.-.o.-.o.-.o.-.",), ("--o---o---o---o-",), ("o--oo--oo--oo--o",)),
        open_hat=(_OFFBEATS,),
        ghosts=(("",), (".......-.......-",), (".........-......",)),
        extra=(
            (SHAKER, ("o-x-o-x-o-x-o-x-",)),
            (RIM, ("...o..o....o....",)),
            (TAMBOURINE, ("..o...o...o...o.",)),
            (PERC, ("......o..o......", "......o..o...o..")),
        ),
        ride=("..x...x...x...x.",),
        fills=("snare", "cut", "clap"),
    ),
    "deep": Groove(
        kick=(_FOUR,),
        snare=(_BACKBEAT,),
        snare_pitches=(CLAP,),
        hat=(("o.-.o.-.o.-.o.-.",), ("--o---o---o---o-",)),
        open_hat=(("..o...o...o...o.",),),
        ghosts=((".......-..-.....",), (".......-.......-",)),
        extra=(
            (RIM, ("...o..o...o.....", "...o..o......o..")),
            (SHAKER, ("o-x-o-x-o-x-o-x-",)),
            (PERC, ("..o..o....o..o..",)),
            (MID_TOM, ("", ".............o..")),
        ),
        fills=("clap", "cut", "kick"),
    ),
    "afro": Groove(
        kick=(_FOUR, ("X.....x.X.....x.",)),
        snare=(("...x..x.....x...",), ("......x.....x...",)),
        snare_pitches=(RIM,),
        hat=(("o.x.o.x.o.x.o.x.",),),
        extra=(
            (SHAKER, ("o-x-o-x-o-x-o-x-",)),
            (PERC, ("x..x..x...x.x...",)),
            (MID_TOM, ("..........o..o..",)),
        ),
        fills=("toms", "cut"),
    ),
    "two-step": Groove(
        kick=(("X.........x.....", "X......x..x....."), ("X.....x...x.....",)),
        snare=(_BACKBEAT,),
        snare_pitches=(SNARE, CLAP),
        hat=(("x-o-x-ox-ox-x-o-",), ("..x...x...x...xo",)),
        open_hat=(("......x.......x.",), ("",)),
        ghosts=((".......-.-......",), (".......-.......-",)),
        extra=((RIM, ("...o......o..o..",)), (SHAKER, ("o-x-o-x-o-x-o-x-",))),
        kick_freedom=0.15,
        fills=("snare", "cut", "kick"),
    ),
    "trance": Groove(
        kick=(_FOUR,),
        snare=(_BACKBEAT,),
        snare_pitches=(CLAP, SNARE),
        hat=(_SIXTEENTHS,),
        open_hat=(_OFFBEATS,),
        extra=((SHAKER, ("o-x-o-x-o-x-o-x-",)), (RIM, ("...o..o....o..o.",))),
        ride=("x.x.x.x.x.x.x.x.",),
        fills=("snare", "cut"),
    ),
    "techno": Groove(
        kick=(_FOUR,),
        snare=(_BACKBEAT, ("............x...",), ("....x.......x..o",)),
        snare_pitches=(CLAP,),
        hat=(("-oxo-oxo-oxo-oxo",), _SIXTEENTHS, ("o.ooo.ooo.ooo.oo",)),
        open_hat=(_OFFBEATS,),
        extra=(
            (LOW_TOM, ("...o..o..o....o.",)),
            (PERC, ("..o..o..o..o..o.", "..o..o..o..o.oo.")),
            (RIM, ("x..x..x..x..x...",)),
            (RIM, (".o..o..o.o..o..o",)),
        ),
        ride=("x.x.x.x.x.x.x.x.",),
        fills=("cut", "snare", "hats"),
    ),
    "dnb": Groove(
        kick=(
            ("X.........x.....",),
            ("X.........x.....", "X.x.......x....."),
            ("X......x..x.....", "X.........x....."),
        ),
        snare=(_BACKBEAT,),
        hat=(("x.x.x.x.x.x.x.x.",), ("x-x-x-x-x-x-x-x-",), ("x.xox.xox.xox.xo",)),
        open_hat=(("", "..............x."), ("......x.........", ""), ("",)),
        ghosts=(
            (".......-.-.....-",),
            (".......-.......-", ".......-.-......"),
            (".........-......",),
        ),
        extra=((SHAKER, ("o-x-o-x-o-x-o-x-",)), (RIM, ("..o..........o..",))),
        ride=("x.x.x.x.x.x.x.x.",),
        fills=("break", "snare", "cut"),
    ),
    "amen": Groove(
        kick=(
            ("X.X.......XX....", "X.X.......XX....", "X.X.......X.....", "..XX......X....."),
            ("X.X.......XX....", "X.x......xX....."),
        ),
        snare=(
            ("....X.......X...", "....X.......X...", "....X.........X.", "....X.........X."),
            ("....X.......X...", "....X.......X.o."),
        ),
        hat=(("x.x.x.x.x.x.x.x.",), ("x.x.x.xox.x.x.xo",)),
        hat_pitch=RIDE,
        ghosts=((".......-.-.....-",), (".......-.-.....-", ".......-.-.--..-")),
        extra=((SHAKER, ("o-x-o-x-o-x-o-x-",)), (TAMBOURINE, ("..o...o...o...o.",))),
        kick_freedom=0.1,
        fills=("break", "snare", "cut"),
    ),
    "break": Groove(
        kick=(("X.x.......x.....", "X.x....x..x....."), ("X..x......x..x..",)),
        snare=(_BACKBEAT,),
        hat=(_EIGHTHS, ("x.x.x.xox.x.x.x.",)),
        open_hat=(("......x.........", ""), ("",)),
        ghosts=((".......-.-.....-",), (".........-.....-",)),
        extra=((TAMBOURINE, ("..o...o...o...o.",)), (SHAKER, ("o-x-o-x-o-x-o-x-",))),
        ride=("x...x...x...x...",),
        kick_freedom=0.2,
        fills=("break", "snare", "toms"),
    ),
    "ambient": Groove(
        crash=False,
        kick=(("o...............", ""), ("o.........-.....", "")),
        kick_pitch=SOFT_KICK,
        snare=(("",), ("............-...", "")),
        snare_pitches=(RIM,),
        hat=(("..-...-...-...-.",), ("",), ("....-.......-...",)),
        hat_pitch=SHAKER,
        extra=((PERC, ("......-.........", "...........-....")),),
        fills=("none",),
    ),
    "cinematic": Groove(
        kick=(("X.....x.....x...",), ("X.......x..x....", "X.......x.......")),
        snare=(("........o.......",), ("",)),
        snare_pitches=(LOW_TOM,),
        hat=(("",), ("..-...-...-...-.",)),
        hat_pitch=SHAKER,
        extra=((MID_TOM, ("......o...o...o.",)), (LOW_TOM, ("..o..o......o.o.",))),
        fills=("toms",),
    ),
    "synthwave": Groove(
        kick=(_FOUR, ("X.......X.......",), ("X.....x.X.......",), ("X.......X.x.....",)),
        snare=(_BACKBEAT,),
        hat=(_EIGHTHS, _SIXTEENTHS, ("o.x.o.x.o.x.o.x.",)),
        open_hat=(("..............x.", ""), _OFFBEATS, ("",)),
        extra=(
            (TAMBOURINE, ("..o...o...o...o.",)),
            (CLAP, ("....o.......o...",)),
            (COWBELL, ("", "......o...o.....")),
        ),
        fills=("toms", "snare", "toms"),
    ),
}
"""Name -> groove."""
