"""Names that XML, ZIP, Linux, macOS and Windows accept."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

_LONGEST_FILE_BYTES = 120
"""In UTF-8. File systems take 255; the rest is for numbers, suffixes and what programs add."""
_LONGEST_LABEL = 100
_IN_FILE_NAMES = frozenset(" -_.,+&'()[]=@!")
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
"""Windows devices; a suffix does not free the name."""
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SEPARATORS = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_RUNS = re.compile(r"_{2,}")
_SHORT_MODES = {"major": "maj", "minor": "min"}


def clean_text(text: str) -> str:
    """Return the text with U+FFFD in place of the characters that XML 1.0 cannot hold.

    Line ends become line feeds.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    return _NOT_XML.sub("\ufffd", lines)


def clean_label(text: str, fallback: str) -> str:
    """Return a name to show, on one line of at most 100 characters; `fallback` if it is empty."""
    line = clean_text(_SEPARATORS.sub(" ", text)).strip()
    if len(line) > _LONGEST_LABEL:
        line = line[: _LONGEST_LABEL - 1].rstrip() + "…"
    return line or fallback


def make_file_name(text: str, fallback: str) -> str:
    """Return a name without suffix for a file or folder on any system.

    Letters and digits of all scripts stay, and # becomes "sharp"; other characters, such as emoji,
    slashes and quotes, become "_". The name has at most 120 bytes, no dot or space at its ends, and
    is no device of Windows. `fallback` is returned if nothing is left.
    """
    composed = unicodedata.normalize("NFC", _SEPARATORS.sub(" ", text)).replace("#", "sharp")
    kept = "".join(one if one in _IN_FILE_NAMES or _is_letter(one) else "_" for one in composed)
    name = _cut(_RUNS.sub("_", kept).strip(" ._"))
    if not name:
        return fallback
    return f"_{name}" if _RESERVED.fullmatch(name) else name


def make_slug(text: str, fallback: str) -> str:
    """Return the words of a text in lower case ASCII, joined by hyphens: "dark-trap-loop"."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    words = re.findall(r"[a-z0-9]+", plain.replace("#", "sharp").replace("'", ""))
    return "-".join(words)[:60].strip("-") or fallback


def make_key_slug(key: str) -> str:
    """Return a key for file names: "F# minor" -> "Fsharpmin", "Bb dorian" -> "Bbdorian"."""
    tonic, _, mode = key.partition(" ")
    return make_file_name(tonic + _SHORT_MODES.get(mode, mode), "")


def make_unique(names: Iterable[str], taken: Sequence[str] = (), joint: str = " ") -> list[str]:
    """Number repeated names ("drums", "Drums 2"), as a file system that ignores case sees them.

    Args:
        names: the names.
        taken: names that none of them may have.
        joint: stands between name and number.
    """
    used = {_fold(name) for name in taken}
    unique = []
    for name in names:
        candidate, number = name, 1
        while _fold(candidate) in used:
            number += 1
            candidate = f"{name}{joint}{number}"
        used.add(_fold(candidate))
        unique.append(candidate)
    return unique


def _fold(name: str) -> str:
    return unicodedata.normalize("NFKC", name.casefold())


def _is_letter(character: str) -> bool:
    category = unicodedata.category(character)
    # Letters, the marks that belong to them, and digits.
    return category[0] in "LM" or category == "Nd"


def _cut(name: str) -> str:
    cut = name.encode()[:_LONGEST_FILE_BYTES].decode(errors="ignore")
    return cut.rstrip(" ._")
