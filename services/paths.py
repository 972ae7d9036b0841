"""Paths in texts: no client, and no log above DEBUG, learns where files are on this machine."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

_QUOTED_PATH = re.compile(r"(?<=(['\"]))/(?!api/)(?:(?:(?!\1)[^/])+/)+((?:(?!\1)[^/])*)(?=\1)")
_PATH = re.compile(
    r"(?:(?<=sqlite:///)|(?<=file://)|(?<![\w.:/\\-]))/(?!api/)"
    r"(?:[^\s/'\"<>|,;()]+/)+([^\s/'\"<>|,;()]*)"
)
"""An absolute path of at least two parts; neither a URL nor a route of the API."""


def hide_paths(text: str, folders: Iterable[tuple[Path, str]] = ()) -> str:
    """Return the text without what says where files are on this machine.

    Args:
        text: of an error or of an event in the log.
        folders: pairs of a folder and the name that takes its place. Of other absolute paths the
            last part is kept.
    """
    for folder, name in sorted(folders, key=lambda pair: -len(str(pair[0]))):
        if folder != Path(folder.anchor):
            text = re.sub(rf"{re.escape(str(folder))}(?![\w-])", name, text)
    return _PATH.sub(r".../\1", _QUOTED_PATH.sub(r".../\2", text))
