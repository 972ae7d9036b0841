"""Read metadata from the chunks of an untrusted WAV file."""

from __future__ import annotations

import os
import re
import struct
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from services.audio.carried_reading import read_id3_texts
from services.audio.comments import parse_standard_texts
from services.audio.facts import TakeFacts
from services.audio.reading import UnreadableAudioError
from services.audio.riff import decode_text, iter_chunk_heads, parse_info
from services.audio.wav_ixml import parse_ixml

if TYPE_CHECKING:
    from collections.abc import Mapping

_MOST_CHUNK_BYTES = 4 << 20
_WANTED = {b"iXML", b"bext", b"acid", b"id3 "}
_OWN_NAME = "DGX Music"
_OWN_COMMENT = re.compile(
    r"(?:engine (?P<engine>[^; ]+)(?: (?P<engine_version>[^;]+))?; )?"
    r"seed (?P<seed>\d{1,39})(?:; id (?P<generation_id>[0-9a-f-]{36}))?"
)


def read_wav_facts(path: str | os.PathLike[str]) -> TakeFacts:
    """Read the metadata of a WAV or RF64 file, without its samples.

    A file of DGX Music returns the facts it was written with. If a program has kept only the `INFO`
    texts, prompt, engine, seed and id are restored from them. Other files have title, licence and
    genre (`INFO`), tempo and meter (`acid`), tempo and key (`id3 `) and time (`bext`). Damaged
    chunks and those over 4 MiB are ignored.

    Raises:
        FileNotFoundError: the file does not exist.
        UnreadableAudioError: not a WAV file, or the file cannot be read.
    """
    target = Path(path)
    try:
        with target.open("rb") as file:
            chunks = _read_chunks(file, target)
    except FileNotFoundError:
        raise FileNotFoundError(f"No such file: {target}") from None
    except (OSError, ValueError) as error:
        raise UnreadableAudioError(f"{target} cannot be read: {error}") from error
    own = parse_ixml(chunks.get(b"iXML", b""))
    return _parse_other_chunks(chunks) if own is None else own


def _read_chunks(file: BinaryIO, path: Path) -> dict[bytes, bytes]:
    """Return the first chunk of each known name; a `LIST` is named after its type."""
    head = file.read(12)
    if head[:4] not in {b"RIFF", b"RF64", b"BW64"} or head[8:] != b"WAVE":
        raise UnreadableAudioError(f"{path} is not a WAV file.")
    found: dict[bytes, bytes] = {}
    for name, size in iter_chunk_heads(file):
        if size > _MOST_CHUNK_BYTES:
            continue
        if name in _WANTED:
            found.setdefault(name, file.read(size))
        elif name == b"LIST" and file.read(4) == b"INFO":
            found.setdefault(b"INFO", file.read(max(size - 4, 0)))
    return found


def _parse_other_chunks(chunks: Mapping[bytes, bytes]) -> TakeFacts:
    info = dict(reversed(parse_info(chunks.get(b"INFO", b""))))
    bext = _parse_bext(chunks.get(b"bext", b""))
    tags = dict(reversed(read_id3_texts(chunks[b"id3 "]))) if b"id3 " in chunks else {}
    comment = _parse_comment(info.get("COMMENT", ""))
    title = info.get("TITLE") or tags.get("TITLE") or bext.pop("description", None)
    is_take = bool(comment) or info.get("ENCODER", "").startswith(_OWN_NAME)
    is_take = is_take or "generation_id" in bext
    return TakeFacts.from_dict(
        {
            **{name: value for name, value in parse_standard_texts(tags).items() if value},
            **bext,
            **comment,
            "title": None if is_take else title,
            "prompt": title if is_take else None,
            "genre": info.get("GENRE") or tags.get("GENRE"),
            "licence": info.get("COPYRIGHT") or tags.get("LICENSE"),
            "created_at": bext.get("created_at") or info.get("DATE") or tags.get("DATE"),
            **_parse_acid(chunks.get(b"acid", b"")),
        }
    )


def _parse_comment(comment: str) -> dict[str, Any]:
    found = _OWN_COMMENT.fullmatch(comment)
    if found is None:
        return {}
    facts = {name: text for name, text in found.groupdict().items() if text}
    return {**facts, "seed": int(found["seed"])}


def _parse_bext(body: bytes) -> dict[str, Any]:
    if len(body) < 338:  # length of the text fields, equal in all versions of EBU Tech 3285
        return {}
    fields = struct.unpack_from("<256s32s32s10s8s", body)
    description, originator, reference, date, time = (decode_text(field) for field in fields)
    facts = {"description": description, "created_at": f"{date}T{time}" if time else date}
    if originator.startswith(_OWN_NAME):
        facts["generation_id"] = _restore_dashes(reference)
    return facts


def _restore_dashes(reference: str) -> str:
    """Restore the dashes of a UUID; return other references unchanged."""
    try:
        return str(uuid.UUID(reference)) if len(reference) == 32 else reference
    except ValueError:
        return reference


def _parse_acid(body: bytes) -> dict[str, Any]:
    if len(body) < 24:
        return {}
    flags, _, _, _, beats, unit, beats_per_bar, bpm = struct.unpack_from("<IHHfIHHf", body)
    if not bpm > 0:
        # Some programs write the chunk without filling it in.
        return {}
    whole_bars = beats_per_bar > 0 and beats % beats_per_bar == 0
    return {
        "bpm": bpm,
        "beats_per_bar": beats_per_bar,
        "beat_unit": unit,
        "bars": beats // beats_per_bar if whole_bars else None,
        "is_loop": not flags & 1,
    }
