"""The iXML chunk (iXML specification 2.10) of a WAV file.

DAWs and sound libraries read `NOTE`, `LOUDNESS` and `TRACK_LIST`. The specification leaves `USER`
to the writer: here it has all facts as JSON in ASCII, which preserves characters that XML forbids.
"""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

from services.audio.facts import TakeFacts

if TYPE_CHECKING:
    from services.audio.loudness import Loudness

_OWNER = "dgx_music"
_CHANNEL_NAMES = {1: ("Mono",), 2: ("Left", "Right")}
# Every character that XML 1.0 forbids, and the control characters that it allows.
_NOT_TEXT = re.compile("[^\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]+")


def to_one_line(text: str) -> str:
    """Remove control characters and lone surrogates, and collapse white space."""
    return " ".join(_NOT_TEXT.sub(" ", text).split())


def build_ixml(facts: TakeFacts, channels: int) -> bytes:
    """Return the body of an iXML chunk, UTF-8."""
    root = ET.Element("BWFXML")
    _add(root, "IXML_VERSION", "2.10")
    _add(root, "PROJECT", "DGX Music")
    if facts.prompt:
        _add(root, "NOTE", to_one_line(facts.prompt))
    if facts.generation_id:
        _add(root, "FILE_UID", to_one_line(facts.generation_id))
    if facts.loudness is not None:
        _add_loudness(root, facts.loudness)
    tracks = ET.SubElement(root, "TRACK_LIST")
    _add(tracks, "TRACK_COUNT", str(channels))
    for number, name in enumerate(_CHANNEL_NAMES[channels], 1):
        track = ET.SubElement(tracks, "TRACK")
        _add(track, "CHANNEL_INDEX", str(number))
        _add(track, "INTERLEAVE_INDEX", str(number))
        _add(track, "NAME", name)
    _add(root, "USER", build_user(facts))
    ET.indent(root)
    document: str = ET.tostring(root, "unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{document}\n'.encode()


def build_user(facts: TakeFacts) -> str:
    """Return all facts as JSON, the text of `USER`."""
    return json.dumps({_OWNER: facts.to_dict()}, allow_nan=False)


def parse_ixml(document: bytes) -> TakeFacts | None:
    """Return the facts in a chunk of DGX Music; None for any other or damaged chunk."""
    text = document.decode("utf-8", "replace").strip("\0\ufeff \t\r\n")
    if "<!DOCTYPE" in text:
        return None
    try:
        # As text, so that the parser ignores the encoding that the document declares.
        user = ET.fromstring(text).findtext("USER")  # noqa: S314 - no document type, no entities
        found = json.loads(user or "null")
    except (ET.ParseError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or _OWNER not in found:
        return None
    return TakeFacts.from_dict(found[_OWNER])


def _add(parent: ET.Element, name: str, text: str) -> None:
    ET.SubElement(parent, name).text = text


def _add_loudness(root: ET.Element, loudness: Loudness) -> None:
    figures = {
        "LOUDNESS_VALUE": loudness.integrated_lufs,
        "LOUDNESS_RANGE": loudness.loudness_range_lu,
        "MAX_TRUE_PEAK_LEVEL": loudness.true_peak_dbtp,
        "MAX_MOMENTARY_LOUDNESS": loudness.momentary_max_lufs,
        "MAX_SHORT_TERM_LOUDNESS": loudness.short_term_max_lufs,
    }
    block = ET.SubElement(root, "LOUDNESS")
    for name, figure in figures.items():
        # The same range as in the bext chunk.
        if -99.99 <= figure <= 99.99:
            _add(block, name, f"{figure:.2f}")
