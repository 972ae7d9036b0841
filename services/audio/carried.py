"""What a file says of itself that is not of DGX Music, on its way into another file.

Texts have the names of Vorbis comments. What a format cannot hold is listed in `left_out`, so that
nothing is lost silently.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from services.audio.riff import (
    Chunk,
    Loop,
    Marker,
    describe_chunk,
    parse_position,
    scale,
)
from services.audio.riff_changes import (
    has_unknown_positions,
    scale_chunk,
)

if TYPE_CHECKING:
    from collections.abc import Collection

CHAPTER = re.compile(r"CHAPTER(\d{3})(NAME)?")
"""Comments of the chapters of Ogg and FLAC files, by Xiph's chapter extension."""

_POSITIONS = {"TIME_REFERENCE", "LOOPSTART", "LOOPLENGTH", "LOOPEND"}
_LEVELS = re.compile(r"(REPLAYGAIN|R128|MP3GAIN)_.*|ITUNNORM|COMMENT:ITUNNORM", re.IGNORECASE)
_TRACK_LEVELS = re.compile(
    r"REPLAYGAIN_(TRACK_(GAIN|PEAK)|REFERENCE_LOUDNESS)|R128_TRACK_GAIN", re.IGNORECASE
)
# iTunes' count of the samples that its encoder added would cut the new file.
_OF_ENCODING = re.compile(r"(COMMENT:)?ITUNSMPB", re.IGNORECASE)
_ALL_LEVEL_CHUNKS = {b"PEAK", b"levl", b"md5 ", b"MD5 "}


@dataclass(frozen=True, slots=True)
class Picture:
    kind: int
    """As in FLAC and ID3: 3 is the front cover."""
    mime: str
    description: str
    data: bytes
    width: int = 0
    height: int = 0
    depth: int = 0
    colors: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """The metadata that others wrote into a file."""

    kind: str = ""
    """wav, flac, ogg, opus, mp3 or aiff; empty for a type whose metadata is not read."""
    sample_rate: int
    """Hz, of all positions."""
    texts: tuple[tuple[str, str], ...] = ()
    """Names as of Vorbis comments, in the order of the file; a name may occur several times."""
    pictures: tuple[Picture, ...] = ()
    markers: tuple[Marker, ...] = ()
    loops: tuple[Loop, ...] = ()
    chunks: tuple[Chunk, ...] = ()
    """Of a WAV file, or of a FLAC file that was made from one."""
    blocks: tuple[tuple[int, bytes], ...] = ()
    """Type and body of the blocks of a FLAC file that are neither comments nor pictures."""
    frames: Any = None
    """ID3 frames as they are, as a `mutagen.id3.ID3`; None without any."""
    left_out: tuple[str, ...] = ()
    """What could not be read or kept, for messages."""

    def at_rate(self, sample_rate: int) -> Carried:
        """Return the same for a file of another sample rate: positions keep their time."""
        if sample_rate == self.sample_rate:
            return self
        ratio = Fraction(sample_rate, self.sample_rate)
        return replace(
            self,
            sample_rate=sample_rate,
            texts=tuple((name, _scale_text(name, text, ratio)) for name, text in self.texts),
            markers=tuple(
                Marker(
                    scale(one.frame, ratio, 1 << 64), one.label, scale(one.length, ratio, 1 << 64)
                )
                for one in self.markers
            ),
            loops=tuple(one.at_ratio(ratio) for one in self.loops),
            chunks=tuple(
                (name, scale_chunk(name, body, ratio))
                for name, body in self.chunks
                if not has_unknown_positions(name, body)
            ),
            blocks=tuple(one for one in self.blocks if one[0] != _CUESHEET),
            left_out=(
                *self.left_out,
                *(
                    f"{describe_chunk(name, body)}, whose positions are unknown"
                    for name, body in self.chunks
                    if has_unknown_positions(name, body) and name not in _ALL_LEVEL_CHUNKS
                ),
                *(
                    "the cue sheet, which is for the old rate"
                    for one in self.blocks
                    if one[0] == _CUESHEET
                ),
            ),
        )

    def without_old_levels(self, *, new_levels: bool) -> Carried:
        """Return the same without gains and peaks that no longer hold.

        Args:
            new_levels: the levels of the file change. The track's gain is measured again in any
                case; that of its album is kept as long as the levels are.
        """
        stale = _LEVELS if new_levels else _TRACK_LEVELS
        # A dictionary: it keeps the order, and there may be many names to look for.
        lost = dict.fromkeys(
            name for name, _ in self.texts if stale.fullmatch(name) or _OF_ENCODING.fullmatch(name)
        )
        again = [name for name in lost if not _TRACK_LEVELS.fullmatch(name)]
        chunks = [one for one in self.chunks if one[0] in _ALL_LEVEL_CHUNKS]
        return replace(
            self,
            texts=tuple(one for one in self.texts if one[0] not in lost),
            chunks=tuple(one for one in self.chunks if one[0] not in _ALL_LEVEL_CHUNKS),
            left_out=(
                *self.left_out,
                *(f"{name}, which is for the old file" for name in again),
                *(f"{describe_chunk(name)}, which is for the old samples" for name, _ in chunks),
            ),
        )

    def without_texts(self, known: Collection[tuple[str, str]]) -> Carried:
        """Return the same without the texts that DGX Music writes itself."""
        return replace(
            self,
            texts=tuple(
                (name, text)
                for name, text in self.texts
                if (name.upper(), text) not in known
                and not name.upper().startswith("DGX_")
                and not text.startswith("DGX Music ")
            ),
        )


_CUESHEET = 5


def _scale_text(name: str, text: str, ratio: Fraction) -> str:
    position = parse_position(text) if name.upper() in _POSITIONS else None
    return text if position is None else str(scale(position, ratio, 1 << 64))


def parse_chapters(texts: tuple[tuple[str, str], ...], sample_rate: int) -> tuple[Marker, ...]:
    """Return the chapters of Vorbis comments as markers."""
    times: dict[str, float] = {}
    names: dict[str, str] = {}
    for name, text in texts:
        found = CHAPTER.fullmatch(name.upper())
        clock = re.fullmatch(r"(\d{1,4}):(\d{1,2}):(\d{1,2}(?:\.\d{1,9})?)", text)
        if found and found[2]:
            names[found[1]] = text
        elif found and clock:
            times[found[1]] = int(clock[1]) * 3600 + int(clock[2]) * 60 + float(clock[3])
    return tuple(
        Marker(round(seconds * sample_rate), names.get(number, f"marker {int(number)}"))
        for number, seconds in sorted(times.items(), key=lambda one: one[1])
    )


def build_chapters(markers: tuple[Marker, ...], sample_rate: int) -> list[tuple[str, str]]:
    """Return markers as the chapters of Vorbis comments; there are at most 999."""
    texts = []
    for number, marker in enumerate(markers[:999], 1):
        thousandths = round(marker.frame * 1000 / sample_rate)
        minutes, rest = divmod(thousandths, 60_000)
        clock = f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}.{rest % 1000:03}"
        texts += [(f"CHAPTER{number:03}", clock), (f"CHAPTER{number:03}NAME", marker.label)]
    return texts


def parse_loop_texts(texts: tuple[tuple[str, str], ...]) -> tuple[Loop, ...]:
    """Return the loop of LOOPSTART with LOOPLENGTH or LOOPEND, as game engines write it."""
    found = {name.upper(): parse_position(text) for name, text in texts}
    start, length, end = (found.get(name) for name in ("LOOPSTART", "LOOPLENGTH", "LOOPEND"))
    if start is None:
        return ()
    if length:
        return (Loop(start, start + length - 1),)
    return (Loop(start, end),) if end is not None and end >= start else ()


def build_loop_texts(loops: tuple[Loop, ...]) -> list[tuple[str, str]]:
    """Return the first loop as LOOPSTART and LOOPLENGTH."""
    return [
        text
        for loop in loops[:1]
        for text in (
            ("LOOPSTART", str(loop.start)),
            ("LOOPLENGTH", str(loop.end - loop.start + 1)),
        )
    ]
