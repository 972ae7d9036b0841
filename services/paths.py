"""Paths in texts: no client, and no log above DEBUG, learns where files are on this machine."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

_QUOTED_PATH = re.compile(r"(?<=(['\"]))/(?!api/v1/)(?:(?:(?!\1)[^/])*/)+((?:(?!\1)[^/])*)(?=\1)")
_PATH = re.compile(
    r"(?:(?<=sqlite:///)|(?<=file:)|(?<![\w.~/\\-])(?!(?<=\w:)//))/(?!api/v1/)"
    r"(?:[^\s/'\"<>|;()]*/)+([^\s/'\"<>|,;()]*)"
)
"""An absolute path of at least two parts; neither a URL nor a route of the API."""


def hide_paths(text: str, folders: Iterable[tuple[Path, str]] = ()) -> str:
    """Return the text without what says where files are on this machine.

    Args:
        text: of an error or of an event in the log.
        folders: pairs of a folder and the name that takes its place. Of other absolute paths the
            last part is kept.
    """
    names = {str(folder): name for folder, name in folders if folder != Path(folder.anchor)}
    if names:
        known = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
        whole = rf"(?<![\w.-])(?:{known})(?=/|[\s'\":;,)]|\.?$|\.\s)"
        text = re.sub(whole, lambda found: names[found[0]], text)
    return _PATH.sub(r".../\1", _QUOTED_PATH.sub(r".../\2", text))
