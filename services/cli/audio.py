"""`dgx-music analyze`, `normalize` and `convert`: any audio file, whoever made it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.console import (
    answer,
    answer_json,
    answer_table,
    is_terminal,
    note,
    printable,
    quiet_libraries,
)
from services.errors import DGXMusicError, InvalidRequestError, OutputError

if TYPE_CHECKING:
    from services.audio import Analysis, AudioFile, TakeFacts, WrittenFile

Source = Annotated[Path, typer.Argument(metavar="IN", help="The file to read.")]
Target = Annotated[
    Path, typer.Argument(metavar="OUT", help="The file to write: .wav, .flac, .mp3, .ogg, .opus.")
]
Depth = Annotated[
    str | None,
    typer.Option("--bit-depth", "-b", help="PCM_16, PCM_24, PCM_32 or FLOAT (WAV and FLAC)."),
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace OUT if there is one.")]
AsJson = Annotated[bool, typer.Option("--json", help="Answer with JSON.")]

_WAVEFORM_COLUMNS, _WAVEFORM_LINES = 72, 6
_UNKNOWN = "-"
_LACKING_SECONDS = 0.05


def analyze(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Audio files.")],
    bpm: Annotated[
        float | None,
        typer.Option("--bpm", min=20, max=400, help="The tempo it should have, as a hint."),
    ] = None,
    spectrogram: Annotated[
        Path | None, typer.Option("--spectrogram", help="Also draw the one FILE into this PNG.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Replace the PNG if there is one.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Measure loudness, true peak, tempo, key and more, and show what a file says of itself.

    Example: dgx-music analyze loop.wav --bpm 140
    """
    if spectrogram is not None and len(files) > 1:
        raise InvalidRequestError("A spectrogram can be drawn of one FILE at a time.")
    if spectrogram is not None:
        _check_target(spectrogram, force=force)
    found: list[_Report] = []
    failures: list[DGXMusicError] = []
    for path in files:
        try:
            found.append(_report(path, bpm))
        except DGXMusicError as error:
            # One bad file must not hide what is known of the others.
            failures.append(error)
    if spectrogram is not None and found:
        _draw(found[0].file, spectrogram)
    if as_json:
        answer_json([one.as_dict() for one in found])
    elif len(files) == 1 and found:
        _show_one(found[0])
    elif found:
        answer_table(_HEADINGS, [one.row() for one in found])
    for failure in failures[:-1]:
        note(f"error: {failure}")
    if failures:
        raise failures[-1]


def normalize(
    source: Source,
    target: Target,
    lufs: Annotated[
        float | None,
        typer.Option("--lufs", help="Integrated loudness; without it, that of the settings."),
    ] = None,
    true_peak: Annotated[
        float | None,
        typer.Option("--true-peak", help="Highest true peak, dBTP; as for --lufs."),
    ] = None,
    bit_depth: Depth = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Bring a file to a loudness under a true-peak ceiling, in any format.

    Example: dgx-music normalize mix.wav mix-14.flac --lufs -14
    """
    from services.audio import normalise_file
    from services.config import load_settings

    _check_target(target, force=force)
    settings = load_settings()
    wanted = settings.target_lufs if lufs is None else lufs
    if wanted is None:
        raise InvalidRequestError("DGX_MUSIC_TARGET_LUFS is off. Say the loudness: --lufs -16.")
    with audio_errors():
        done = normalise_file(
            source,
            target,
            target_lufs=wanted,
            true_peak_dbtp=settings.true_peak_dbtp if true_peak is None else true_peak,
            bit_depth=bit_depth,
        )
    if as_json:
        answer_json({"file": str(target), **done.to_dict()})
        return
    flags = f" ({', '.join(done.flags)})" if done.flags else ""
    note(
        f"{_level(done.loudness.integrated_lufs)} LUFS · "
        f"{_level(done.loudness.true_peak_dbtp)} dBTP · limited by "
        f"{done.gain_reduction_db:.1f} dB{flags}"
    )
    answer(str(target))


def convert(
    source: Source,
    target: Target,
    bit_depth: Depth = None,
    sample_rate: Annotated[
        int | None, typer.Option("--sample-rate", "-r", min=8000, max=192_000, help="Hz.")
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Write a file in another format, at the same levels, with all it says of itself.

    Example: dgx-music convert take.wav take.opus
    """
    from services.audio import convert_file

    _check_target(target, force=force)
    with audio_errors():
        written = convert_file(source, target, bit_depth=bit_depth, sample_rate=sample_rate)
    if as_json:
        answer_json(_written(written))
    else:
        answer(str(target))


@contextmanager
def audio_errors() -> Iterator[None]:
    """Bring what the audio package says into the one tree of errors."""
    from services.audio import UnreadableAudioError

    try:
        with quiet_libraries():
            yield
    except (FileNotFoundError, UnreadableAudioError, ValueError) as error:
        raise InvalidRequestError(str(error)) from error
    except RuntimeError as error:
        raise OutputError(str(error)) from error


class _Report:
    """Everything about one file."""

    def __init__(self, file: AudioFile, analysis: Analysis, facts: TakeFacts) -> None:
        self.file = file
        self.analysis = analysis
        self.facts = facts

    def as_dict(self) -> dict[str, Any]:
        file = self.file
        return {
            "file": printable(str(file.path)),
            "bytes": file.bytes,
            "container": file.container,
            "encoding": file.encoding,
            "bit_depth": file.bit_depth,
            **self.analysis.to_dict(),
            "says": self.facts.to_dict(),
        }

    def row(self) -> tuple[str, ...]:
        features, loudness = self.analysis.features, self.analysis.loudness
        tempo, key = self.analysis.tempo, self.analysis.key
        return (
            str(self.file.path),
            f"{features.duration_seconds:.1f}",
            f"{loudness.integrated_lufs:.1f}",
            f"{loudness.true_peak_dbtp:.1f}",
            f"{loudness.loudness_range_lu:.1f}",
            _UNKNOWN if tempo.bpm is None else f"{tempo.bpm:.1f}",
            _UNKNOWN if key is None else key.name,
        )


_HEADINGS = ("file", "s", "LUFS", "dBTP", "LU", "bpm", "key")


def _report(path: Path, hint_bpm: float | None) -> _Report:
    from services.audio import TakeFacts, UnreadableAudioError, analyse_file, open_audio, read_facts

    with audio_errors():
        file = open_audio(path)
        analysis = analyse_file(path, hint_bpm)
        try:
            facts = read_facts(path)
        except UnreadableAudioError:
            # A format without tags of ours, or broken ones: the audio was measured all the same.
            facts = TakeFacts()
    return _Report(file, analysis, facts)


def _show_one(report: _Report) -> None:
    lines = _lines(report)
    width = max(len(name) for name in lines)
    if is_terminal(sys.stdout):
        from services.audio import compute_source_peaks, draw_waveform

        with audio_errors():
            peaks = compute_source_peaks(report.file)
        columns = min(_WAVEFORM_COLUMNS, shutil.get_terminal_size().columns)
        answer(draw_waveform(peaks, columns, _WAVEFORM_LINES))
    for name, value in lines.items():
        answer(f"{name:<{width}}  {value}")


def _lines(report: _Report) -> dict[str, str]:
    file, facts = report.file, report.facts
    features, loudness = report.analysis.features, report.analysis.loudness
    tempo, key = report.analysis.tempo, report.analysis.key
    channels = "mono" if features.channels == 1 else "stereo"
    lines = {
        "file": str(file.path),
        "format": f"{file.container} {file.encoding}, {features.sample_rate} Hz, {channels}",
        "duration": f"{features.duration_seconds:.2f} s{_missing(report)}",
        "loudness": f"{_level(loudness.integrated_lufs)} LUFS, range "
        f"{loudness.loudness_range_lu:.1f} LU",
        "loudest": f"{_level(loudness.momentary_max_lufs)} LUFS in 400 ms, "
        f"{_level(loudness.short_term_max_lufs)} in 3 s",
        "true peak": f"{_level(loudness.true_peak_dbtp)} dBTP, samples "
        f"{_level(loudness.sample_peak_dbfs)} dBFS",
        "tempo": "none found"
        if tempo.bpm is None
        else f"{tempo.bpm:.2f} BPM, confidence {tempo.confidence:.2f}"
        + (", or an octave from it" if tempo.octave_ambiguous else ""),
        "key": "none found" if key is None else f"{key.name}, confidence {key.confidence:.2f}",
        "dynamics": f"{features.dynamic_range_db:.1f} dB, crest {features.crest_factor_db:.1f} dB",
        "spectrum": f"centroid {features.spectral_centroid_hz:.0f} Hz, rolloff "
        f"{features.spectral_rolloff_hz:.0f} Hz, flatness {features.spectral_flatness:.2f}",
        "character": f"energy {features.energy:.2f}, danceability {features.danceability:.2f}",
    }
    says = {
        "prompt": facts.prompt,
        "id": facts.generation_id,
        "engine": facts.engine and f"{facts.engine} {facts.engine_version or ''}".strip(),
        "seed": facts.seed,
        "licence": facts.licence,
    }
    return lines | {
        f"says: {name}": str(value) for name, value in says.items() if value is not None
    }


def _missing(report: _Report) -> str:
    """What a file lacks of what its header promises."""
    lacking = report.file.duration_seconds - report.analysis.features.duration_seconds
    return f", and {lacking:.2f} s that cannot be read" if lacking > _LACKING_SECONDS else ""


def _level(value: float) -> str:
    return f"{value:.1f}"


def _draw(file: AudioFile, target: Path) -> None:
    from services.audio import draw_source_spectrogram
    from services.audio.atomic import atomic_file

    with audio_errors():
        picture = draw_source_spectrogram(file, file.frames, labels=True)
        with atomic_file(target, "PNG") as staged:
            with staged.explain_errors():
                staged.temporary.write_bytes(picture)
            staged.finish(0)
            staged.publish()
    note(f"The spectrogram is {target}.")


def _check_target(target: Path, *, force: bool) -> None:
    from services.jobs.outfile import require_free

    if not target.name or target.is_dir():
        raise InvalidRequestError(f"The file to write needs a name, not {str(target)!r}.")
    require_free(target, force=force)


def _written(written: WrittenFile) -> dict[str, Any]:
    return {
        "file": str(written.path),
        "bytes": written.bytes,
        "sha256": written.sha256,
        "frames": written.frames,
    }
