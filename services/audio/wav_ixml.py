"""The iXML chunk (iXML specification 2.10): what a DAW shows, and all facts word for word.

`NOTE`, `LOUDNESS` and `TRACK_LIST` are for people and programs that know nothing of us. `USER`,
which the specification leaves to whoever writes it, holds the facts as JSON in ASCII: that keeps
any character, also those that XML does not have.
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
# Everything but the Char production of XML 1.0, and the control characters that it allows.
_NOT_TEXT = re.compile("[^\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]+")


def one_line(text: str) -> str:
    """The text without control characters, lone surrogates and runs of white space."""
    return " ".join(_NOT_TEXT.sub(" ", text).split())


def ixml_document(facts: TakeFacts, channels: int) -> bytes:
    """The body of an iXML chunk, UTF-8."""
    root = ET.Element("BWFXML")
    _add(root, "IXML_VERSION", "2.10")
    _add(root, "PROJECT", "DGX Music")
    if facts.prompt:
        _add(root, "NOTE", one_line(facts.prompt))
    if facts.generation_id:
        _add(root, "FILE_UID", one_line(facts.generation_id))
    if facts.loudness is not None:
        _add_loudness(root, facts.loudness)
    tracks = ET.SubElement(root, "TRACK_LIST")
    _add(tracks, "TRACK_COUNT", str(channels))
    for number, name in enumerate(_CHANNEL_NAMES[channels], 1):
        track = ET.SubElement(tracks, "TRACK")
        _add(track, "CHANNEL_INDEX", str(number))
        _add(track, "INTERLEAVE_INDEX", str(number))
        _add(track, "NAME", name)
    _add(root, "USER", json.dumps({_OWNER: facts.to_dict()}, allow_nan=False))
    ET.indent(root)
    document: str = ET.tostring(root, "unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{document}\n'.encode()


def ixml_facts(document: bytes) -> TakeFacts | None:
    """The facts in a chunk of ours; None for every other chunk, whole or broken."""
    text = document.decode("utf-8", "replace").strip("\0\ufeff \t\r\n")
    if "<!DOCTYPE" in text:
        return None
    try:
        # Text, not bytes: so the parser asks for no encoding that the document names.
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
        # The range of the bext chunk, which this block repeats.
        if -99.99 <= figure <= 99.99:
            _add(block, name, f"{figure:.2f}")
