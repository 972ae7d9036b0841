"""Write and read the metadata of FLAC, Vorbis, Opus and MP3 files, with mutagen.

Title, tempo, key, genre, licence and gain go into the standard fields for players and DAWs. All
facts also go into one JSON field, from which they are read back.
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import re
import struct
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from services import __version__
from services.audio.facts import TakeFacts
from services.audio.reading import UnreadableAudioError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from services.audio.encoding import AudioFormat
    from services.audio.loudness import Loudness

_REPLAY_GAIN_LUFS = -18.0
_R128_LUFS = -23.0
_MOST_TAG_BYTES = 16 << 20
_MOST_JSON_CHARACTERS = 1 << 20

# Useless in any text. In ID3 a zero byte would end the text.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
_KEY = re.compile(r"([A-G][b#]?) (\w+)")
_SHORT_KEY = re.compile(r"([A-G][b#]?)(m?)")
_MINOR_THIRD = {"minor", "aeolian", "dorian", "phrygian", "locrian"}
_MAJOR_THIRD = {"major", "ionian", "lydian", "mixolydian"}

_VORBIS_COMMENT_FORMATS = {
    "flac": ("mutagen.flac", "FLAC"),
    "ogg": ("mutagen.oggvorbis", "OggVorbis"),
    "opus": ("mutagen.oggopus", "OggOpus"),
}
_ID3_TEXTS = {
    "TITLE": "TIT2",
    "GENRE": "TCON",
    "DATE": "TDRC",
    "INITIALKEY": "TKEY",
    "ENCODED-BY": "TENC",
}
# Bits of the frame flags: 0x80 in version 2.3, 0x08 in 2.4; each is unused in the other version.
_ID3_COMPRESSED = 0x88
_ID3_READ = ("TIT2", "TCON", "TDRC", "TYER", "TDAT", "TIME", "TKEY", "TBPM", "TXXX")


def write_tags(path: Path, audio_format: AudioFormat, facts: TakeFacts) -> None:
    """Write the known facts into a file without tags; the audio data are not changed.

    FLAC, Vorbis and Opus get Vorbis comments. MP3 gets ID3v2.3, which every player and DAW reads.
    Loudness becomes ReplayGain 2.0 (-18 LUFS), in Opus R128_TRACK_GAIN (-23 LUFS, RFC 7845,
    section 5.2.1).

    Raises:
        OSError: the file cannot be written.
        ValueError: the format is WAV, which has chunks instead of tags.
    """
    if audio_format.name != "mp3" and audio_format.name not in _VORBIS_COMMENT_FORMATS:
        raise ValueError(f"{audio_format.label} files have chunks instead of tags.")
    import mutagen

    try:
        with path.open("r+b") as file:
            if audio_format.name == "mp3":
                _write_id3(file, facts)
            else:
                _write_comments(audio_format.name, file, facts)
    except mutagen.MutagenError as error:
        reason = error.__cause__ or (error.args[0] if error.args else None)
        if isinstance(reason, OSError):
            raise reason from error
        raise OSError(errno.EIO, f"the tags could not be written ({error})") from error


def read_facts(path: str | os.PathLike[str]) -> TakeFacts:
    """Read the metadata of a WAV, FLAC, Ogg or MP3 file.

    A file of DGX Music returns the facts it was written with. From other files come title (as the
    prompt), tempo, key, genre, licence and date. At most 16 MiB of tags are read, and no samples.

    Raises:
        FileNotFoundError: the file does not exist.
        UnreadableAudioError: another file type, damaged tags, or the file cannot be read.
    """
    target = Path(path)
    try:
        with target.open("rb") as file:
            kind = _detect_format(file.read(64))
            file.seek(0)
            bounded = _BoundedFile(file)
            if kind == "mp3":
                return _parse_facts(_read_id3(bounded))
            if kind in _VORBIS_COMMENT_FORMATS:
                return _parse_facts(_read_comments(kind, bounded))
    except FileNotFoundError:
        raise FileNotFoundError(f"No such file: {target}") from None
    except _read_errors() as error:
        raise UnreadableAudioError(f"{target} has tags that cannot be read: {error}") from error
    if kind != "wav":
        raise UnreadableAudioError(f"{target} is not a WAV, FLAC, Ogg Vorbis, Opus or MP3 file.")
    from services.audio.wav_facts import read_wav_facts

    return read_wav_facts(target)


def _read_errors() -> tuple[type[Exception], ...]:
    """Return the errors of the disk, of mutagen, and those its parsers leak on damaged files."""
    import mutagen

    return (
        OSError,
        mutagen.MutagenError,
        ValueError,
        LookupError,
        ArithmeticError,
        struct.error,
    )


def _detect_format(head: bytes) -> str:
    """Return the format by the first 64 bytes of a file, or an empty string."""
    if head[:4] == b"fLaC":
        return "flac"
    if head[:4] == b"OggS":
        return "ogg" if b"\x01vorbis" in head else "opus" if b"OpusHead" in head else ""
    if head[:3] == b"ID3" or (head[:1] == b"\xff" and head[1:2] >= b"\xe0"):
        return "mp3"
    return "wav" if head[:4] in {b"RIFF", b"RF64", b"BW64"} else ""


def _open_tags(kind: str, file: BinaryIO) -> Any:
    module, name = _VORBIS_COMMENT_FORMATS[kind]
    return getattr(import_module(module), name)(file)


# Writing.


def _write_comments(kind: str, file: BinaryIO, facts: TakeFacts) -> None:
    gain = _build_r128_gain if kind == "opus" else _build_replay_gain
    tagged = _open_tags(kind, file)
    for name, text in (_build_comments(facts) | gain(facts.loudness)).items():
        tagged[name] = text
    file.seek(0)
    tagged.save(file)


def _write_id3(file: BinaryIO, facts: TakeFacts) -> None:
    from mutagen import id3

    frames: Any = id3  # mutagen has no annotations
    comments = _build_comments(facts) | _build_replay_gain(facts.loudness)
    tags = frames.ID3()
    for name, text in comments.items():
        if name in _ID3_TEXTS:
            tags.add(
                getattr(frames, _ID3_TEXTS[name])(encoding=_choose_id3_encoding(text), text=[text])
            )
        elif name == "COMMENT":
            encoding = _choose_id3_encoding(text)
            tags.add(frames.COMM(encoding=encoding, lang="eng", desc="", text=[text]))
        else:
            tags.add(frames.TXXX(encoding=_choose_id3_encoding(text), desc=name, text=[text]))
    if facts.bpm is not None:
        tags.add(frames.TBPM(encoding=0, text=[str(round(facts.bpm))]))
    if facts.licence is not None:
        _add_licence(tags, frames, facts)
    tags.update_to_v23()
    file.seek(0)
    tags.save(file, v2_version=3)


def _choose_id3_encoding(text: str) -> int:
    """Return ISO 8859-1 for ASCII text and UTF-16 for other text; ID3v2.3 has no UTF-8."""
    return 0 if text.isascii() else 1


def _add_licence(tags: Any, frames: Any, facts: TakeFacts) -> None:
    """Add the licence as a URL, or as a copyright message, which has to begin with a year."""
    licence = _clean(str(facts.licence))
    if re.match(r"https?://\S+$", licence) and licence.isascii():
        tags.add(frames.WCOP(url=licence))
    elif facts.created_at is not None:
        tags.add(
            frames.TCOP(
                encoding=_choose_id3_encoding(licence),
                text=[f"{facts.created_at.year:04} {licence}"],
            )
        )


def _build_comments(facts: TakeFacts) -> dict[str, str]:
    """Return Vorbis comments: the standard names first, then those of DGX Music."""
    created = facts.created_at
    known = {
        "TITLE": facts.prompt,
        "GENRE": facts.genre,
        "DATE": None if created is None else created.date().isoformat(),
        "BPM": None if facts.bpm is None else f"{facts.bpm:.12g}",
        "KEY": facts.key,
        "INITIALKEY": abbreviate_key(facts.key),
        "LICENSE": facts.licence,
        "COMMENT": _summarise_facts(facts),
        "ENCODED-BY": f"DGX Music {__version__}",
        "DGX_PROMPT": facts.prompt,
        "DGX_SEED": facts.seed,
        "DGX_ENGINE": facts.engine,
        "DGX_ENGINE_VERSION": facts.engine_version,
        "DGX_GENERATION_ID": facts.generation_id,
        "DGX_BARS": facts.bars,
        "DGX_FACTS": json.dumps(facts.to_dict(), allow_nan=False),
    }
    texts = {name: _clean(str(value)) for name, value in known.items() if value is not None}
    return {name: text for name, text in texts.items() if text}


def _summarise_facts(facts: TakeFacts) -> str | None:
    """Return a readable summary for the comment field, which every player shows."""
    engine = " ".join(filter(None, (facts.engine, facts.engine_version)))
    parts = {
        "engine": engine or None,
        "seed": facts.seed,
        "generation": facts.generation_id,
        "licence": facts.licence,
    }
    known = ", ".join(f"{name} {value}" for name, value in parts.items() if value is not None)
    return f"Made with DGX Music: {known}" if known else None


def abbreviate_key(key: str | None) -> str | None:
    """Return a key in the form of ID3's TKEY: "C#m" for C# minor, "Eb" for Eb major.

    Modes count by their third: D dorian is "Dm". Returns None for an unknown key.
    """
    match = _KEY.fullmatch(key or "")
    if match is None:
        return None
    tonic, mode = match.groups()
    if mode in _MINOR_THIRD:
        return f"{tonic}m"
    return tonic if mode in _MAJOR_THIRD else None


def _build_replay_gain(loudness: Loudness | None) -> dict[str, str]:
    # ReplayGain 2.0. The peak is the true peak, since that is what clips.
    if loudness is None or not math.isfinite(loudness.integrated_lufs):
        return {}
    gain = _REPLAY_GAIN_LUFS - loudness.integrated_lufs
    peak = 10 ** (loudness.true_peak_dbtp / 20)
    return {
        "REPLAYGAIN_TRACK_GAIN": f"{gain:.2f} dB",
        "REPLAYGAIN_TRACK_PEAK": f"{peak:.6f}",
        "REPLAYGAIN_REFERENCE_LOUDNESS": f"{_REPLAY_GAIN_LUFS:.2f} LUFS",
    }


def _build_r128_gain(loudness: Loudness | None) -> dict[str, str]:
    # Steps of 1/256 dB within 16 bits (RFC 7845, section 5.2.1).
    if loudness is None or not math.isfinite(loudness.integrated_lufs):
        return {}
    steps = round(256 * (_R128_LUFS - loudness.integrated_lufs))
    return {"R128_TRACK_GAIN": str(max(-32768, min(steps, 32767)))}


def _clean(text: str) -> str:
    return _CONTROL.sub("", text)


# Reading.


class _BoundedFile(io.BufferedIOBase, BinaryIO):
    """A file of which only `_MOST_TAG_BYTES` can be read, whatever its headers claim."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self._left = _MOST_TAG_BYTES

    def read(self, size: int | None = -1) -> bytes:
        wanted = self._left + 1 if size is None or size < 0 else min(size, self._left + 1)
        data = self._file.read(wanted)
        self._left -= len(data)
        if self._left < 0:
            raise OSError(errno.EFBIG, "the tags are too large")
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _read_comments(kind: str, file: BinaryIO) -> dict[str, str]:
    texts: dict[str, str] = {}
    for name, text in _open_tags(kind, file).tags or []:
        texts.setdefault(name.upper(), text)
    return texts


def _read_id3(file: BinaryIO) -> dict[str, str]:
    from mutagen import id3

    frames: Any = id3
    try:
        tags = frames.ID3(file, known_frames=_list_safe_frames(frames), load_v1=False)
    except frames.ID3NoHeaderError:
        return {}
    texts = {
        name: str(tags[frame].text[0])
        for name, frame in [*_ID3_TEXTS.items(), ("BPM", "TBPM")]
        if frame in tags and tags[frame].text
    }
    for frame in tags.getall("TXXX"):
        if frame.text:
            texts.setdefault(frame.desc.upper(), str(frame.text[0]))
    return texts


def _list_safe_frames(frames: Any) -> dict[str, Any]:
    """Return the frame classes to read, without decompression: 1 MB could become gigabytes."""

    def uncompressed(base: Any) -> Any:
        def from_data(cls: Any, header: Any, flags: int, data: bytes) -> Any:
            if flags & _ID3_COMPRESSED:
                raise frames.ID3JunkFrameError("compressed")
            return base._fromData.__func__(cls, header, flags, data)

        return type(base.__name__, (base,), {"_fromData": classmethod(from_data)})

    return {name: uncompressed(getattr(frames, name)) for name in _ID3_READ}


def _parse_facts(texts: Mapping[str, str]) -> TakeFacts:
    own = texts.get("DGX_FACTS", "")
    if 0 < len(own) <= _MOST_JSON_CHARACTERS:
        try:
            return TakeFacts.from_dict(json.loads(own))
        except (ValueError, RecursionError):
            pass
    return TakeFacts.from_dict(
        {
            "prompt": texts.get("DGX_PROMPT") or texts.get("TITLE"),
            "seed": _parse_number(int, texts.get("DGX_SEED")),
            "engine": texts.get("DGX_ENGINE"),
            "engine_version": texts.get("DGX_ENGINE_VERSION"),
            "generation_id": texts.get("DGX_GENERATION_ID"),
            "licence": texts.get("LICENSE"),
            "created_at": texts.get("DATE"),
            "genre": texts.get("GENRE"),
            "bpm": _parse_number(float, texts.get("BPM")),
            "key": _parse_key(texts.get("KEY")) or _parse_key(texts.get("INITIALKEY")),
            "bars": _parse_number(int, texts.get("DGX_BARS")),
        }
    )


def _parse_number(kind: type[int] | type[float], text: str | None) -> float | None:
    try:
        return None if text is None else kind(text)
    except ValueError:
        return None


def _parse_key(text: str | None) -> str | None:
    """Return the key in the form of `TakeFacts`, from that form or from ID3's."""
    short = _SHORT_KEY.fullmatch(text or "")
    if short is not None:
        return f"{short[1]} {'minor' if short[2] else 'major'}"
    return text if abbreviate_key(text) else None
