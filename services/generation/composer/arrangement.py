"""The arrangement: sections, the parts that play in each, and how bright they sound."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from services.generation.score import Section

if TYPE_CHECKING:
    from services.generation.composer.genres import Form

SHORT_BARS = 22
"""Up to this length a piece is one groove with an intro and an ending; longer ones have a form."""

Melody = Literal["none", "hint", "call", "full"]
"""Which two-bar units of a section have melody: none, every fourth, every second, or all."""


@dataclass(frozen=True, slots=True)
class SectionKind:
    """The properties of a kind of section."""

    energy: float
    drum_level: int
    """0 none, 1 hats and percussion, 2 kick, snare and hats, 3 everything."""
    slots: str
    """Slots that play, separated by spaces; "all" for every one."""
    brightness: tuple[float, float]
    """At the start and at the end, 0..1; 0.5 is the patch's own."""
    melody: Melody = "full"
    theme: int = 0
    """0 for the first theme (groove, harmony, melody), 1 for the second."""
    is_build: bool = False
    """Has snare rolls and a longer riser."""
    late_slots: str = ""
    """Slots that join halfway through a long section."""
    leaving_slots: str = ""
    """Slots that stop halfway through a long section."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A section of a piece with its properties."""

    section: Section
    kind: SectionKind
    is_last: bool
    """The piece ends with it, on the tonic; False for every section of a loop."""
    resolves: bool
    """Its last bar is an ending; False in a piece of under four bars."""
    next_kind: SectionKind | None
    """The properties of the next section; after the last one of a loop the first follows."""
    develops: bool = False
    """The piece is long enough for sections to change halfway."""
    is_repeat: bool = False
    """A section of this kind came before: `late_slots` play from its start."""
    turns_around: bool = False
    """The last section of a loop: its last bar leads back to the first."""

    @property
    def end_bar(self) -> int:
        return self.section.start_bar + self.section.bars

    def plays(self, slot: str) -> bool:
        if slot == "drums":
            return self.kind.drum_level > 0
        return self.kind.slots == "all" or slot in self.kind.slots.split()

    @property
    def midpoint_bar(self) -> int:
        """The bar at which a long section changes; the first bar of a short one."""
        section = self.section
        changes = self.develops and section.bars >= 8
        return section.start_bar + (section.bars // 4 * 2 if changes else 0)

    def bars_of(self, slot: str) -> range:
        """Return the bars of this section in which a slot plays."""
        first, end = self.section.start_bar, self.end_bar
        half = self.midpoint_bar
        if not self.plays(slot):
            return range(first, first)
        if half > first and slot in self.kind.late_slots.split() and not self.is_repeat:
            return range(half, end)
        if half > first and slot in self.kind.leaving_slots.split():
            return range(first, half)
        return range(first, end)


SECTION_KINDS: dict[Form, dict[str, SectionKind]] = {
    "beat": {
        "intro": SectionKind(
            0.4, 1, "chords pad arp lead texture riser", (0.22, 0.42), "hint", late_slots="arp lead"
        ),
        "build": SectionKind(
            0.55, 1, "chords pad arp texture riser", (0.2, 0.7), "none", is_build=True
        ),
        "groove": SectionKind(0.75, 3, "all", (0.5, 0.5)),
        "variation": SectionKind(0.9, 3, "all", (0.55, 0.6), theme=1),
        "verse": SectionKind(
            0.6, 2, "bass chords pad texture lead riser", (0.42, 0.47), "call", late_slots="pad"
        ),
        "hook": SectionKind(0.88, 3, "all", (0.52, 0.58), theme=1),
        "break": SectionKind(
            0.35, 1, "chords pad arp lead texture riser", (0.3, 0.45), "call", leaving_slots="arp"
        ),
        "outro": SectionKind(
            0.35, 2, "bass chords pad texture", (0.45, 0.2), "none", leaving_slots="bass drums"
        ),
        "ending": SectionKind(0.4, 3, "bass chords pad texture lead", (0.45, 0.3)),
    },
    "dance": {
        "intro": SectionKind(
            0.42, 2, "arp texture chords riser", (0.2, 0.4), "none", late_slots="arp chords"
        ),
        "lead-in": SectionKind(0.45, 1, "chords pad arp texture riser", (0.2, 0.5), "none"),
        "build": SectionKind(
            0.6,
            1,
            "chords pad arp texture riser",
            (0.22, 0.85),
            "none",
            is_build=True,
            late_slots="arp",
        ),
        "groove": SectionKind(
            0.8, 3, "bass chords pad lead texture riser", (0.5, 0.55), late_slots="lead"
        ),
        "variation": SectionKind(0.95, 3, "all", (0.55, 0.65), theme=1),
        "drop": SectionKind(0.9, 3, "all", (0.55, 0.6), theme=1, late_slots="arp"),
        "break": SectionKind(
            0.32, 0, "chords pad lead texture riser", (0.28, 0.5), "call", late_slots="lead"
        ),
        "outro": SectionKind(0.4, 2, "bass pad texture", (0.45, 0.2), "none", leaving_slots="pad"),
        "ending": SectionKind(0.45, 3, "bass chords pad texture lead", (0.5, 0.3)),
    },
    "flow": {
        "intro": SectionKind(0.25, 0, "pad texture arp", (0.2, 0.4), "none", late_slots="arp"),
        "build": SectionKind(0.45, 1, "pad bass texture arp chords riser", (0.25, 0.6), "none"),
        "groove": SectionKind(0.5, 2, "all", (0.42, 0.5)),
        "variation": SectionKind(0.65, 2, "all", (0.5, 0.58), theme=1),
        "drift": SectionKind(
            0.42, 1, "pad bass texture chords lead", (0.35, 0.45), "call", late_slots="lead"
        ),
        "swell": SectionKind(0.7, 2, "all", (0.45, 0.62), "call", theme=1, late_slots="arp"),
        "break": SectionKind(0.22, 0, "pad texture lead arp", (0.32, 0.28), "call"),
        "outro": SectionKind(
            0.25, 0, "pad texture chords bass", (0.42, 0.15), "none", leaving_slots="chords"
        ),
        "ending": SectionKind(0.3, 0, "pad texture chords bass lead", (0.45, 0.25)),
    },
}
"""Form -> kind of section -> its properties."""

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
"""Form -> head, the cycle that repeats, tail; the bars are weights."""


def arrange(
    bars: int, form: Form, *, loop: bool = False, structure: tuple[str, ...] = ()
) -> tuple[Passage, ...]:
    """Return passages that cover `bars` exactly, in order.

    Args:
        bars: length of the piece, 1 or more.
        form: of the genre.
        loop: no intro and no ending: the full groove plays from the first beat.
        structure: section names that the prompt mentions; they change short pieces.
    """
    if loop:
        runs = _plan_loop(bars)
    elif bars <= SHORT_BARS:
        runs = _plan_short(bars, form, structure)
    else:
        runs = _plan_long(bars, form)
    return _make_passages(runs, form, loop=loop)


def _plan_loop(bars: int) -> list[tuple[str, int]]:
    if bars < 4:
        return [("groove", bars)]
    first = max(2, bars // 2 // 4 * 4) if bars >= 8 else bars // 2
    return [("groove", first), ("variation", bars - first)]


def _plan_short(bars: int, form: Form, structure: tuple[str, ...]) -> list[tuple[str, int]]:
    """Plan a piece whose full groove starts in the third bar at the latest."""
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


def _plan_long(bars: int, form: Form) -> list[tuple[str, int]]:
    """Repeat the cycle of the form as often as fits best, in phrases of 4 bars or of 2."""
    head, cycle, tail = _CYCLES[form]
    fixed = sum(weight for _, weight in head + tail)
    once = sum(weight for _, weight in cycle)
    times = max(1, round((bars - fixed) / once))
    runs = list(head) + list(cycle) * times + list(tail)
    unit = 4 if bars >= 4 * len(runs) + 24 else 2
    if bars < 2 * len(runs):
        runs, unit = list(head) + list(tail), 2
    lengths = _apportion([weight for _, weight in runs], bars // unit)
    out = [(name, length * unit) for (name, _), length in zip(runs, lengths, strict=True)]
    name, length = out[-1]
    out[-1] = (name, length + bars % unit)
    return out


def _apportion(weights: list[int], total: int) -> list[int]:
    """Split `total` into whole numbers of at least 1 in proportion (largest remainders)."""
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


def _make_passages(runs: list[tuple[str, int]], form: Form, *, loop: bool) -> tuple[Passage, ...]:
    seen: Counter[str] = Counter()
    out: list[Passage] = []
    bar = 0
    bars = sum(length for _, length in runs)
    kinds = SECTION_KINDS[form]
    for index, (name, length) in enumerate(runs):
        seen[name] += 1
        kind = kinds[name]
        is_drop = name == "groove" and form == "dance" and bar > 0 and len(runs) < 7
        title = "drop" if is_drop else name
        label = title if seen[name] == 1 else f"{title} {seen[name]}"
        energy = min(1.0, kind.energy + 0.05 * (seen[name] - 1))
        last = index == len(runs) - 1
        out.append(
            Passage(
                Section(label, bar, length, energy),
                kind,
                last and not loop,
                last and not loop and bars >= 4,
                _kind_after(runs, index, kinds, loop=loop),
                bars > SHORT_BARS and not loop,
                seen[name] > 1,
                turns_around=last and loop,
            )
        )
        bar += length
    return tuple(out)


def _kind_after(
    runs: list[tuple[str, int]], index: int, kinds: dict[str, SectionKind], *, loop: bool
) -> SectionKind | None:
    if index + 1 < len(runs):
        return kinds[runs[index + 1][0]]
    return kinds[runs[0][0]] if loop else None
