"""Writes plain folders: the mix, stems, MIDI and chords of each take, for any DAW."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from services.daw.midi import score_to_midi
from services.daw.names import make_file_name, make_unique
from services.daw.output import new_output
from services.daw.sources import check_sources, copy_source

if TYPE_CHECKING:
    from services.daw.session import Session, Take

_BARS_A_LINE = 4
_README = "README.txt"


def write_folder(session: Session, folder: Path, *, force: bool = False) -> Path:
    """Write `folder`/NAME with a mix, stems/, a MIDI file and chords, and README.txt.

    Several takes have a folder each.

    Returns:
        the folder.

    Raises:
        InvalidRequestError: the folder exists, and `force` is not set.
        FileGoneError, FileDamagedError: a source is missing or changed; nothing is written.
        OutputError: the folder cannot be written; nothing is left of it.
    """
    check_sources(session)
    target = folder / session.file_name
    names = make_unique((make_file_name(take.name, "take") for take in session.takes), [_README])
    with new_output(target, force=force) as draft:
        draft.mkdir()
        for take, name in zip(session.takes, names, strict=True):
            inside = draft if len(names) == 1 else draft / name
            inside.mkdir(exist_ok=True)
            _write_take(session, take, inside, name)
        (draft / _README).write_text(_describe(session), encoding="utf-8")
    return target


def _write_take(session: Session, take: Take, inside: Path, name: str) -> None:
    clips = [(track, clip) for track, clip in session.audio_clips() if clip.take is take]
    stems = [(track, clip) for track, clip in clips if track.role != "mix"]
    for track, clip in clips:
        if track.role == "mix":
            copy_source(clip.source, inside / f"{name}.wav")
    if stems:
        (inside / "stems").mkdir()
    safe = make_unique(make_file_name(track.name, "stem") for track, _ in stems)
    for (_, clip), stem in zip(stems, safe, strict=True):
        copy_source(clip.source, inside / "stems" / f"{stem}.wav")
    if take.score is not None:
        (inside / f"{name}.mid").write_bytes(score_to_midi(take.score))
        (inside / f"{name} chords.txt").write_text(write_chord_chart(take), encoding="utf-8")


def write_chord_chart(take: Take) -> str:
    """Return the chords of a take with a score as text, four bars a line under their section."""
    lines = [f"{take.name}: {take.key}, {take.tempo_bpm:g} BPM, {take.metre}"]
    names = {marker.bar: marker.name for marker in take.markers}
    starts = sorted({0, *names})
    for start, end in zip(starts, [*starts[1:], take.bars], strict=True):
        lines += ["", f"{names.get(start, 'start')} (bar {start + 1})"]
        for bar in range(start, end, _BARS_A_LINE):
            bars = range(bar, min(bar + _BARS_A_LINE, end))
            lines.append("| " + " | ".join(_list_chords(take, one) for one in bars) + " |")
    return "\n".join(lines) + "\n"


def _list_chords(take: Take, bar: int) -> str:
    """Return the chords that start in a bar; "%" if the one before sounds on."""
    start, end = (one * take.metre.bar_beats for one in (bar, bar + 1))
    chords = take.score.chords if take.score else ()
    return " ".join(chord.symbol for chord in chords if start <= chord.start < end) or "%"


def _describe(session: Session) -> str:
    return "\n".join(_list_facts(session)) + "\n"


def _list_facts(session: Session) -> Iterator[str]:
    yield session.name
    yield ""
    yield "Made with DGX Music. All audio files of a take start together, at its first beat:"
    yield "import them at the start of a bar, with the project at the tempo below."
    for take in session.takes:
        yield ""
        yield take.name
        yield f"{take.tempo_bpm:g} BPM, {take.metre}, {take.bars} bars, key {take.key or 'unknown'}"
        yield take.notes
