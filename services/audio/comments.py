"""The facts of a take as Vorbis comments, and back; ID3 holds the same texts in frames."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

from services import __version__
from services.audio.facts import TakeFacts
from services.audio.key_names import abbreviate_key, parse_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from services.audio.loudness import Loudness

_REPLAY_GAIN_LUFS = -18.0
_R128_LUFS = -23.0
_MOST_JSON_CHARACTERS = 1 << 20

# Useless in any text. In ID3 a zero byte would end the text.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")


def build_comments(facts: TakeFacts) -> dict[str, str]:
    """Return the Vorbis comments of a take: the standard names first, then those of DGX Music.

    There is no KEY, in which one DJ program keeps data of its own; INITIALKEY is what players read.
    """
    created = facts.created_at
    known = {
        "TITLE": facts.title or facts.prompt,
        "GENRE": facts.genre,
        "DATE": None if created is None else created.date().isoformat(),
        "BPM": None if facts.bpm is None else f"{facts.bpm:.12g}",
        "INITIALKEY": abbreviate_key(facts.key),
        "LICENSE": facts.licence,
        "COMMENT": _summarise_facts(facts),
        "ENCODED-BY": f"DGX Music {__version__}",
        "DGX_PROMPT": facts.prompt,
        "DGX_KEY": facts.key,
        "DGX_SEED": facts.seed,
        "DGX_ENGINE": facts.engine,
        "DGX_ENGINE_VERSION": facts.engine_version,
        "DGX_GENERATION_ID": facts.generation_id,
        "DGX_BARS": facts.bars,
        "DGX_FACTS": json.dumps(facts.to_dict(), allow_nan=False),
    }
    texts = {name: clean_text(str(value)) for name, value in known.items() if value is not None}
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


def build_replay_gain(loudness: Loudness | None) -> dict[str, str]:
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


def build_r128_gain(loudness: Loudness | None) -> dict[str, str]:
    # Steps of 1/256 dB within 16 bits (RFC 7845, section 5.2.1).
    if loudness is None or not math.isfinite(loudness.integrated_lufs):
        return {}
    steps = round(256 * (_R128_LUFS - loudness.integrated_lufs))
    return {"R128_TRACK_GAIN": str(max(-32768, min(steps, 32767)))}


def clean_text(text: str) -> str:
    """Return the text with a line feed for every line end and no other control characters."""
    return _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def parse_facts(pairs: Iterable[tuple[str, str]]) -> TakeFacts:
    texts: dict[str, str] = {}
    for name, text in pairs:
        texts.setdefault(name.upper(), text)
    own = texts.get("DGX_FACTS", "")
    if 0 < len(own) <= _MOST_JSON_CHARACTERS:
        try:
            return TakeFacts.from_dict(json.loads(own))
        except (ValueError, RecursionError):
            pass
    return TakeFacts.from_dict({**parse_standard_texts(texts), **_parse_own_texts(texts)})


def parse_standard_texts(texts: Mapping[str, str]) -> dict[str, Any]:
    """Return the facts in the standard comments of any file, as the fields of `TakeFacts`."""
    return {
        "title": texts.get("TITLE"),
        "licence": texts.get("LICENSE"),
        "created_at": texts.get("DATE"),
        "genre": texts.get("GENRE"),
        "bpm": _parse_number(float, texts.get("BPM")),
        "key": parse_key(texts.get("KEY")) or parse_key(texts.get("INITIALKEY")),
    }


def _parse_own_texts(texts: Mapping[str, str]) -> dict[str, Any]:
    """Return the facts in the comments of DGX Music, where the field with all facts is gone."""
    prompt = texts.get("DGX_PROMPT")
    found = {
        "prompt": prompt,
        "seed": _parse_number(int, texts.get("DGX_SEED")),
        "engine": texts.get("DGX_ENGINE"),
        "engine_version": texts.get("DGX_ENGINE_VERSION"),
        "generation_id": texts.get("DGX_GENERATION_ID"),
        "bars": _parse_number(int, texts.get("DGX_BARS")),
    }
    if texts.get("DGX_KEY"):
        found["key"] = texts["DGX_KEY"]
    if prompt is not None and prompt == texts.get("TITLE"):
        found["title"] = None
    return found


def _parse_number(kind: type[int] | type[float], text: str | None) -> float | None:
    try:
        return None if text is None else kind(text)
    except ValueError:
        return None
