"""Writes sample packs: loops, takes and stems named by tempo and key, with a manifest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import services
from services.daw.midi import score_to_midi
from services.daw.names import make_key_slug, make_slug, make_unique
from services.daw.output import new_output
from services.daw.sources import check_sources, copy_source

if TYPE_CHECKING:
    from services.daw.session import Session, Take

_MANIFEST_VERSION = 1


def write_pack(session: Session, folder: Path, *, force: bool = False) -> Path:
    """Write `folder`/NAME-pack with loops/, takes/, stems/, midi/ and manifest.json.

    Files are called {bpm}_{key}_{slug}, such as 140_Fsharpmin_dark-trap_drums.wav. The manifest has
    tempo, metre, key, bars, licence, facts and SHA-256 of each file.

    Returns:
        the folder.

    Raises:
        InvalidRequestError: the pack exists, and `force` is not set.
        FileGoneError, FileDamagedError: a source is missing or changed; nothing is written.
        OutputError: the pack cannot be written; nothing is left of it.
    """
    check_sources(session)
    target = folder / f"{session.file_name}-pack"
    names = make_unique((_name_take(take) for take in session.takes), joint="-")
    with new_output(target, force=force) as draft:
        draft.mkdir()
        files: list[dict[str, Any]] = []
        for take, name in zip(session.takes, names, strict=True):
            for kind, path, digest in _write_take(session, take, draft, name):
                files.append(_describe(take, kind, path, draft, digest))
        manifest = {
            "manifest_version": _MANIFEST_VERSION,
            "name": session.name,
            "made_with": f"DGX Music {services.__version__}",
            "sample_rate": session.sample_rate,
            "files": files,
        }
        text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
        # Half a surrogate pair, which UTF-8 cannot hold, becomes an escape of JSON.
        (draft / "manifest.json").write_bytes(text.encode(errors="backslashreplace"))
    return target


def _name_take(take: Take) -> str:
    tempo = f"{take.tempo_bpm:.2f}".rstrip("0").rstrip(".")
    key = make_key_slug(take.key) or "nokey"
    return f"{tempo}_{key}_{make_slug(take.name, 'take')}"


def _write_take(
    session: Session, take: Take, draft: Path, name: str
) -> list[tuple[str, Path, str | None]]:
    written: list[tuple[str, Path, str | None]] = []
    clips = [(track, clip) for track, clip in session.audio_clips() if clip.take is take]
    stems = [track.name for track, _ in clips if track.role != "mix"]
    slugs = make_unique((make_slug(stem, "stem") for stem in stems), joint="-")
    slug_of = dict(zip(stems, slugs, strict=True))
    for track, clip in clips:
        if track.role == "mix":
            kind, folder, file = (
                ("loop", "loops", name) if take.is_loop else ("take", "takes", name)
            )
        else:
            kind, folder, file = "stem", "stems", f"{name}_{slug_of[track.name]}"
        path = draft / folder / f"{file}.wav"
        path.parent.mkdir(exist_ok=True)
        copy_source(clip.source, path)
        written.append((kind, path, clip.source.sha256))
    if take.score is not None:
        path = draft / "midi" / f"{name}.mid"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(score_to_midi(take.score))
        written.append(("midi", path, None))
    return written


def _describe(take: Take, kind: str, path: Path, draft: Path, digest: str | None) -> dict[str, Any]:
    return {
        "path": path.relative_to(draft).as_posix(),
        "kind": kind,
        "bytes": path.stat().st_size,
        "sha256": digest or _digest(path),
        "bpm": take.tempo_bpm,
        "metre": str(take.metre),
        "key": take.key or None,
        "bars": take.bars,
        "licence": take.licence or None,
        "facts": take.facts.to_dict(),
    }


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
