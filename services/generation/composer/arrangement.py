"""The shape of a piece: its sections, who plays in each, and how open it sounds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from services.generation.score import Section

if TYPE_CHECKING:
    from services.generation.composer.genres import Form

SHORT_BARS = 22
"""Up to here a piece is one groove with an intro and an ending; beyond it has a full form."""

Tune = Literal["none", "hint", "call", "full"]


@dataclass(frozen=True, slots=True)
class Shape:
    """What a kind of section is like."""

    energy: float
    drums: int
    """0 none, 1 hats and colours, 2 the groove, 3 all of it."""
    slots: str
    """Who plays, by name; "all" for everybody."""
    opening: tuple[float, float]
    """Brightness at the start and at the end, 0..1, 0.5 the patch's own."""
    tune: Tune = "full"
    theme: int = 0
    """0 the first theme (groove, harmony, tune), 1 the second."""
    rises: bool = False
    """Snare rolls, risers, opening filters."""
    late: str = ""
    """Who joins halfway, where the section is long enough."""
    leaves: str = ""
    """Who stops halfway."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A section of this piece, with what happens in it."""

    section: Section
    shape: Shape
    last: bool
    """Nothing follows: it ends on the tonic."""
    lands: bool
    """It comes to rest in its last bar (a clip of under four bars just plays on)."""
    into: Shape | None
    """What comes next."""
    evolves: bool = False
    """Long enough a piece for its sections to change halfway."""
    again: bool = False
    """A section of this kind was heard before: nobody waits to join."""

    @property
    def end_bar(self) -> int:
        """The first bar after it."""
        return self.section.start_bar + self.section.bars

    def has(self, slot: str) -> bool:
        """Whether that slot plays here."""
        if slot == "drums":
            return self.shape.drums > 0
        return self.shape.slots == "all" or slot in self.shape.slots.split()

    @property
    def half_bar(self) -> int:
        """The bar at which a long section changes; for a short one its first bar."""
        section = self.section
        changes = self.evolves and section.bars >= 8
        return section.start_bar + (section.bars // 4 * 2 if changes else 0)

    def bars_of(self, slot: str) -> range:
        """The bars in which that slot plays here."""
        first, end = self.section.start_bar, self.end_bar
        half = self.half_bar
        if not self.has(slot):
            return range(first, first)
        if half > first and slot in self.shape.late.split() and not self.again:
            return range(half, end)
        if half > first and slot in self.shape.leaves.split():
            return range(first, half)
        return range(first, end)


_SOFT = "chords pad texture"

SHAPES: dict[Form, dict[str, Shape]] = {
    "beat": {
        "intro": Shape(
            0.4, 1, "chords pad arp lead texture riser", (0.22, 0.42), "hint", late="arp lead"
        ),
        "build": Shape(0.55, 1, "chords pad arp texture riser", (0.2, 0.7), "none", rises=True),
        "groove": Shape(0.75, 3, "all", (0.5, 0.5)),
        "variation": Shape(0.9, 3, "all", (0.55, 0.6), theme=1),
        "verse": Shape(
            0.6, 2, "bass chords pad texture lead riser", (0.42, 0.47), "call", late="pad"
        ),
        "hook": Shape(0.88, 3, "all", (0.52, 0.58), theme=1),
        "break": Shape(
            0.35, 1, "chords pad arp lead texture riser", (0.3, 0.45), "call", leaves="arp"
        ),
        "outro": Shape(
            0.35, 2, "bass chords pad texture", (0.45, 0.2), "none", leaves="bass drums"
        ),
        "ending": Shape(0.4, 3, "bass chords pad texture lead", (0.45, 0.3)),
    },
    "dance": {
        "intro": Shape(0.42, 2, "arp texture chords riser", (0.2, 0.4), "none", late="arp chords"),
        "lead-in": Shape(0.45, 1, "chords pad arp texture riser", (0.2, 0.5), "none"),
        "build": Shape(
            0.6, 1, "chords pad arp texture riser", (0.22, 0.85), "none", rises=True, late="arp"
        ),
        "groove": Shape(0.8, 3, "bass chords pad lead texture riser", (0.5, 0.55), late="lead"),
        "variation": Shape(0.95, 3, "all", (0.55, 0.65), theme=1),
        "drop": Shape(0.9, 3, "all", (0.55, 0.6), theme=1, late="arp"),
        "break": Shape(0.32, 0, "chords pad lead texture riser", (0.28, 0.5), "call", late="lead"),
        "outro": Shape(0.4, 2, "bass pad texture", (0.45, 0.2), "none", leaves="pad"),
        "ending": Shape(0.45, 3, "bass chords pad texture lead", (0.5, 0.3)),
    },
    "flow": {
        "intro": Shape(0.25, 0, "pad texture arp", (0.2, 0.4), "none", late="arp"),
        "build": Shape(0.45, 1, "pad bass texture arp chords riser", (0.25, 0.6), "none"),
        "groove": Shape(0.5, 2, "all", (0.42, 0.5)),
        "variation": Shape(0.65, 2, "all", (0.5, 0.58), theme=1),
        "drift": Shape(0.42, 1, "pad bass texture chords lead", (0.35, 0.45), "call", late="lead"),
        "swell": Shape(0.7, 2, "all", (0.45, 0.62), "call", theme=1, late="arp"),
        "break": Shape(0.22, 0, "pad texture lead arp", (0.32, 0.28), "call"),
        "outro": Shape(0.25, 0, "pad texture chords bass", (0.42, 0.15), "none", leaves="chords"),
        "ending": Shape(0.3, 0, "pad texture chords bass lead", (0.45, 0.25)),
    },
}
"""How each kind of section goes in each form."""

_BODIES: dict[int, tuple[tuple[str, int], ...]] = {
    2: (("groove", 2),),
    4: (("groove", 4),),
    6: (("groove", 4), ("variation", 2)),
    8: (("groove", 4), ("variation", 4)),
    10: (("groove", 4), ("break", 2), ("variation", 4)),
    12: (("groove", 8), ("variation", 4)),
    14: (("groove", 8), ("break", 2), ("variation", 4)),
    16: (("groove", 8), ("variation", 8)),
    18: (("groove", 8), ("break", 2), ("variation", 8)),
    20: (("groove", 8), ("break", 4), ("variation", 8)),
}

_CYCLES: dict[Form, tuple[tuple[tuple[str, int], ...], ...]] = {
    "beat": (
        (("intro", 4),),
        (("verse", 16), ("hook", 8)),
        (("break", 8), ("hook", 8), ("outro", 4)),
    ),
    "dance": (
        (("intro", 8), ("groove", 8)),
        (("build", 8), ("drop", 16), ("break", 8)),
        (("build", 8), ("drop", 16), ("outro", 8)),
    ),
    "flow": (
        (("intro", 4),),
        (("drift", 8), ("swell", 8), ("break", 4)),
        (("swell", 8), ("outro", 4)),
    ),
}
"""Head, the part that repeats, tail; bars are weights."""


def arrange(
    bars: int, form: Form, *, loop: bool = False, structure: tuple[str, ...] = ()
) -> tuple[Passage, ...]:
    """Passages that cover `bars` exactly, in order; `structure` holds words of the prompt."""
    if loop:
        runs = _loop(bars)
    elif bars <= SHORT_BARS:
        runs = _short(bars, form, structure)
    else:
        runs = _long(bars, form)
    return _passages(runs, form, loop=loop)


def _loop(bars: int) -> list[tuple[str, int]]:
    if bars < 4:
        return [("groove", bars)]
    first = max(2, bars // 2 // 4 * 4) if bars >= 8 else bars // 2
    return [("groove", first), ("variation", bars - first)]


def _short(bars: int, form: Form, structure: tuple[str, ...]) -> list[tuple[str, int]]:
    """The full groove by the third bar at the latest."""
    if bars <= 2:
        return [("groove", bars)]
    if bars <= 4:
        return [("groove", 2), ("variation", bars - 2)]
    if bars == 5:
        return [("groove", 4), ("ending", 1)]
    intro = 1 if bars == 6 else 2
    opening = "lead-in" if form == "dance" else "intro"
    if "build" in structure or "drop" in structure:
        opening = "build"
    rest = bars - intro
    ending = rest % 2
    body = list(_BODIES[rest - ending])
    if "break" in structure and rest - ending in (8, 12, 16):
        body = [body[0], ("break", 2), ("variation", rest - ending - body[0][1] - 2)]
    return [(opening, intro), *body, *([("ending", 1)] if ending else [])]


def _long(bars: int, form: Form) -> list[tuple[str, int]]:
    """The form's cycle as often as it fits best, stretched to whole phrases."""
    head, cycle, tail = _CYCLES[form]
    fixed = sum(weight for _, weight in head + tail)
    once = sum(weight for _, weight in cycle)
    times = max(1, round((bars - fixed) / once))
    runs = list(head) + list(cycle) * times + list(tail)
    unit = 4 if bars >= 4 * len(runs) + 24 else 2
    if bars < 2 * len(runs):
        runs, unit = list(head) + list(tail), 2
    lengths = _stretch([weight for _, weight in runs], bars // unit)
    out = [(name, length * unit) for (name, _), length in zip(runs, lengths, strict=True)]
    name, length = out[-1]
    out[-1] = (name, length + bars % unit)
    return out


def _stretch(weights: list[int], total: int) -> list[int]:
    """Whole numbers of at least 1 that sum to `total`, in proportion (largest remainders)."""
    scale = total / sum(weights)
    ideal = [weight * scale for weight in weights]
    out = [max(1, int(value)) for value in ideal]
    by_need = sorted(range(len(out)), key=lambda index: (out[index] - ideal[index], index))
    turn = 0
    while (missing := total - sum(out)) != 0:
        index = (
            by_need[turn % len(out)] if missing > 0 else max(range(len(out)), key=lambda i: out[i])
        )
        out[index] += 1 if missing > 0 else -1
        turn += 1
    return out


def _passages(runs: list[tuple[str, int]], form: Form, *, loop: bool) -> tuple[Passage, ...]:
    seen: Counter[str] = Counter()
    out: list[Passage] = []
    bar = 0
    bars = sum(length for _, length in runs)
    shapes = SHAPES[form]
    for index, (name, length) in enumerate(runs):
        seen[name] += 1
        shape = shapes[name]
        title = {"groove": "drop" if form == "dance" and bar and len(runs) < 7 else "groove"}.get(
            name, name
        )
        label = title if seen[name] == 1 else f"{title} {seen[name]}"
        energy = min(1.0, shape.energy + 0.05 * (seen[name] - 1))
        last = index == len(runs) - 1
        out.append(
            Passage(
                Section(label, bar, length, energy),
                shape,
                last and not loop,
                last and not loop and bars >= 4,
                None if last else shapes[runs[index + 1][0]],
                bars > SHORT_BARS,
                seen[name] > 1,
            )
        )
        bar += length
    return tuple(out)
