"""Facts out of the chunks of a WAV file, ours or anybody's; whatever the file claims."""

from __future__ import annotations

import os
import re
import struct
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from services.audio.facts import TakeFacts
from services.audio.reading import UnreadableAudioError
from services.audio.wav_ixml import ixml_facts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_MOST_CHUNKS = 1000
_MOST_CHUNK_BYTES = 4 << 20
_IN_DS64 = 0xFFFFFFFF
_WANTED = {b"iXML", b"bext", b"acid"}
_OUR_NAME = "DGX Music"
_OUR_COMMENT = re.compile(
    r"(?:engine (?P<engine>[^; ]+)(?: (?P<engine_version>[^;]+))?; )?"
    r"seed (?P<seed>\d{1,39})(?:; id (?P<generation_id>[0-9a-f-]{36}))?"
)


def read_wav_facts(path: str | os.PathLike[str]) -> TakeFacts:
    """What a WAV or RF64 file says about itself; what it does not say is None.

    A file of ours gives back the facts it was written with; if a program has dropped all but its
    texts, they still tell prompt, engine, seed and id. Of others come the tempo and the meter
    (`acid`), title, licence, genre (`INFO`) and the time (`bext`); the title, or the description
    where there is none, stands as the prompt. A chunk that is broken or larger than 4 MiB is
    passed over. The samples are not looked at.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableAudioError: it is no WAV file, or the disk says no.
    """
    target = Path(path)
    try:
        with target.open("rb") as file:
            chunks = _wanted_chunks(file, target)
    except FileNotFoundError:
        raise FileNotFoundError(f"No such file: {target}") from None
    except (OSError, ValueError) as error:
        raise UnreadableAudioError(f"{target} cannot be read: {error}") from error
    own = ixml_facts(chunks.get(b"iXML", b""))
    return _foreign_facts(chunks) if own is None else own


def _wanted_chunks(file: BinaryIO, path: Path) -> dict[bytes, bytes]:
    """The first chunk of each name we read; a `LIST` goes by the name of its type."""
    head = file.read(12)
    if head[:4] not in {b"RIFF", b"RF64", b"BW64"} or head[8:] != b"WAVE":
        raise UnreadableAudioError(f"{path} is not a WAV file; only WAV files hold these facts.")
    found: dict[bytes, bytes] = {}
    for name, size in _chunk_heads(file):
        if size > _MOST_CHUNK_BYTES:
            continue
        if name in _WANTED:
            found.setdefault(name, file.read(size))
        elif name == b"LIST" and file.read(4) == b"INFO":
            found.setdefault(b"INFO", file.read(max(size - 4, 0)))
    return found


def _chunk_heads(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Name and size of each chunk, with the file standing at its body."""
    data_bytes = None
    for _ in range(_MOST_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            return
        name, size = struct.unpack("<4sI", head)
        start = file.tell()
        if name == b"ds64":
            sizes = file.read(16)
            data_bytes = struct.unpack("<8xQ", sizes)[0] if len(sizes) == 16 else None
            file.seek(start)
        if name == b"data" and size == _IN_DS64 and data_bytes is not None:
            size = data_bytes
        yield name, size
        end = start + size + size % 2
        if end >= 1 << 63:  # further than a file can be read
            return
        file.seek(end)


def _foreign_facts(chunks: Mapping[bytes, bytes]) -> TakeFacts:
    info = _info_texts(chunks.get(b"INFO", b""))
    bext = _bext_facts(chunks.get(b"bext", b""))
    return TakeFacts.from_dict(
        {
            **bext,
            **_comment_facts(info.get("ICMT", "")),
            "prompt": info.get("INAM") or bext.get("prompt"),
            "genre": info.get("IGNR"),
            "licence": info.get("ICOP"),
            "created_at": bext.get("created_at") or info.get("ICRD"),
            **_acid_facts(chunks.get(b"acid", b"")),
        }
    )


def _info_texts(body: bytes) -> dict[str, str]:
    """Sub-chunks of a `LIST` `INFO` by name."""
    texts: dict[str, str] = {}
    at = 0
    while at + 8 <= len(body) and len(texts) < _MOST_CHUNKS:
        name, size = struct.unpack_from("<4sI", body, at)
        texts.setdefault(name.decode("latin-1"), _text(body[at + 8 : at + 8 + size]))
        at += 8 + size + size % 2
    return texts


def _comment_facts(comment: str) -> dict[str, Any]:
    """What stays of a file of ours when a program keeps its texts and drops the rest."""
    found = _OUR_COMMENT.fullmatch(comment)
    if found is None:
        return {}
    facts = {name: text for name, text in found.groupdict().items() if text}
    return {**facts, "seed": int(found["seed"])}


def _bext_facts(body: bytes) -> dict[str, Any]:
    if len(body) < 338:  # the texts of EBU Tech 3285, the same in all its versions
        return {}
    fields = struct.unpack_from("<256s32s32s10s8s", body)
    description, originator, reference, date, time = (_text(field) for field in fields)
    facts = {"prompt": description, "created_at": f"{date}T{time}" if time else date}
    if originator.startswith(_OUR_NAME):
        facts["generation_id"] = _with_dashes(reference)
    return facts


def _with_dashes(reference: str) -> str:
    """A UUID as it is written elsewhere; other references as they are."""
    try:
        return str(uuid.UUID(reference)) if len(reference) == 32 else reference
    except ValueError:
        return reference


def _acid_facts(body: bytes) -> dict[str, Any]:
    if len(body) < 24:
        return {}
    flags, _, _, _, beats, unit, beats_per_bar, bpm = struct.unpack_from("<IHHfIHHf", body)
    whole_bars = beats_per_bar > 0 and beats % beats_per_bar == 0
    return {
        "bpm": bpm,
        "beats_per_bar": beats_per_bar,
        "beat_unit": unit,
        "bars": beats // beats_per_bar if whole_bars else None,
        "is_loop": not flags & 1,
    }


def _text(field: bytes) -> str:
    """Up to the first zero; UTF-8, or what came before it."""
    raw = field.split(b"\0", 1)[0]
    try:
        return raw.decode("utf-8").strip()
    except UnicodeDecodeError:
        return raw.decode("latin-1").strip()
