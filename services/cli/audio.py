"""`dgx-music analyze`, `normalize` and `convert`, for any audio file."""

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
    answer_fields,
    answer_json,
    answer_lines,
    answer_table,
    is_terminal,
    note,
    silence_libraries,
)
from services.cli.options import AsJson
from services.errors import DGXMusicError, InvalidRequestError, OutputError

if TYPE_CHECKING:
    from services.audio import Analysis, AudioFile, TakeFacts
    from services.audio.conversion import ConvertedFile

Source = Annotated[Path, typer.Argument(metavar="IN", help="Audio file to read.")]
Target = Annotated[
    Path,
    typer.Argument(metavar="OUT", help="File to write: .wav, .flac, .mp3, .ogg or .opus."),
]
Depth = Annotated[
    str | None,
    typer.Option(
        "--bit-depth",
        "-b",
        metavar="FORMAT",
        help="PCM_16, PCM_24, PCM_32 or FLOAT, for WAV and FLAC.",
        show_default="as in IN",
    ),
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace OUT if it exists.")]

_WAVEFORM_COLUMNS, _WAVEFORM_LINES = 72, 6
_UNKNOWN = "-"
_MISSING_SECONDS = 0.05


def analyze(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Audio files to measure.")],
    bpm: Annotated[
        float | None,
        typer.Option(
            "--bpm", min=20, max=400, metavar="BPM", help="Expected tempo, if you know it."
        ),
    ] = None,
    spectrogram: Annotated[
        Path | None,
        typer.Option(
            "--spectrogram", metavar="PNG", help="Also draw the spectrogram of a single FILE."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Replace the PNG if it exists.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Measure loudness, tempo, key and more, and show the metadata.

    Example: dgx-music analyze loop.wav --bpm 140
    """
    if spectrogram is not None and len(files) > 1:
        raise InvalidRequestError("--spectrogram takes one FILE at a time.")
    if spectrogram is not None:
        _check_target(spectrogram, force=force)
    reports: list[_Report] = []
    failures: list[DGXMusicError] = []
    failed: list[dict[str, Any]] = []
    for path in files:
        try:
            reports.append(_analyze_file(path, bpm))
        except DGXMusicError as error:
            # The other files are still reported.
            failures.append(error)
            failed.append({"file": str(path), "error": str(error)})
    if spectrogram is not None and reports:
        _draw_spectrogram(reports[0].file, spectrogram)
    if as_json:
        answer_json([*(report.to_dict() for report in reports), *failed])
    elif len(files) == 1 and reports:
        _show_report(reports[0])
    elif reports:
        answer_table(_HEADINGS, [report.to_row() for report in reports])
    for failure in failures:
        note(f"error: {failure}")
    if failures:
        raise typer.Exit(failures[-1].exit_code)


def normalize(
    source: Source,
    target: Target,
    lufs: Annotated[
        float | None,
        typer.Option(
            "--lufs",
            metavar="LUFS",
            help="Integrated loudness.",
            show_default="from the settings",
        ),
    ] = None,
    true_peak: Annotated[
        float | None,
        typer.Option(
            "--true-peak",
            metavar="DBTP",
            help="Highest true peak.",
            show_default="from the settings",
        ),
    ] = None,
    bit_depth: Depth = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Bring a file to a loudness below a true-peak ceiling.

    Metadata stay as they are, except for stated levels. Any that the format of OUT cannot hold are
    listed.

    Example: dgx-music normalize mix.wav mix-14.flac --lufs -14
    """
    from services.audio import normalise_file, open_audio
    from services.config import load_settings

    _check_target(target, force=force)
    settings = load_settings()
    wanted = settings.target_lufs if lufs is None else lufs
    if wanted is None:
        raise InvalidRequestError(
            "DGX_MUSIC_TARGET_LUFS is off. Choose a loudness, such as --lufs -16."
        )
    with audio_errors():
        read = open_audio(source)
        done = normalise_file(
            source,
            target,
            target_lufs=wanted,
            true_peak_dbtp=settings.true_peak_dbtp if true_peak is None else true_peak,
            bit_depth=bit_depth,
        )
        _note_losses(read, target)
    if as_json:
        answer_json({"file": str(target), **done.to_dict()})
        return
    flags = f" ({', '.join(done.flags)})" if done.flags else ""
    note(
        f"{_format_level(done.loudness.integrated_lufs)} LUFS · "
        f"{_format_level(done.loudness.true_peak_dbtp)} dBTP · limited by "
        f"{done.gain_reduction_db:.1f} dB{flags}"
    )
    _note_left_out(done.left_out)
    answer(str(target))


def convert(
    source: Source,
    target: Target,
    bit_depth: Depth = None,
    sample_rate: Annotated[
        int | None,
        typer.Option(
            "--sample-rate",
            "-r",
            min=8000,
            max=192_000,
            metavar="HZ",
            help="Sample rate of OUT.",
            show_default="as in IN",
        ),
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Write a file in another format.

    Levels and metadata stay the same. Metadata that the format of OUT cannot hold are listed.

    Example: dgx-music convert take.wav take.opus
    """
    from services.audio import convert_file, open_audio

    _check_target(target, force=force)
    with audio_errors():
        read = open_audio(source)
        written = convert_file(source, target, bit_depth=bit_depth, sample_rate=sample_rate)
        _note_losses(read, target)
    if as_json:
        answer_json(_describe_written(written))
        return
    _note_left_out(written.left_out)
    answer(str(target))


def _note_left_out(left_out: tuple[str, ...]) -> None:
    """List the metadata of a file that its new form cannot hold."""
    if left_out:
        note("Metadata that OUT does not have:")
    for one in left_out:
        note(f"  {one}")


def _note_losses(source: AudioFile, target: Path) -> None:
    """Say what of a file is not in the one that was made from it."""
    from services.audio import open_audio

    for remark in source.remarks:
        note(f"{source.path} is {remark}.")
    missing = source.duration_seconds - open_audio(target).duration_seconds
    if missing > _MISSING_SECONDS:
        note(f"{source.path} is damaged: {missing:.2f} s of it cannot be read.")


@contextmanager
def audio_errors() -> Iterator[None]:
    """Turn the errors of `services.audio` into those of `services.errors`.

    Files that are written meanwhile have the permissions of the caller's own.
    """
    from services.audio import UnreadableAudioError
    from services.machine.shortage import find_shortage
    from services.machine.umask import callers_umask

    try:
        with callers_umask(), silence_libraries():
            yield
    except (FileNotFoundError, UnreadableAudioError, ValueError) as error:
        raise InvalidRequestError(str(error)) from error
    except OSError as error:
        raise find_shortage(error) or OutputError(str(error)) from error
    except RuntimeError as error:
        raise OutputError(str(error)) from error


class _Report:
    """The measurements and metadata of one file."""

    def __init__(self, file: AudioFile, analysis: Analysis, facts: TakeFacts) -> None:
        self.file = file
        self.analysis = analysis
        self.facts = facts

    def to_dict(self) -> dict[str, Any]:
        file = self.file
        return {
            "file": str(file.path),
            "bytes": file.bytes,
            "container": file.container,
            "encoding": file.encoding,
            "bit_depth": file.bit_depth,
            "remarks": list(file.remarks),
            **self.analysis.to_dict(),
            "says": self.facts.to_dict(),
        }

    def to_row(self) -> tuple[str, ...]:
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


def _analyze_file(path: Path, hint_bpm: float | None) -> _Report:
    from services.audio import TakeFacts, UnreadableAudioError, analyse_file, open_audio, read_facts
    from services.audio.arrays import LOWEST_MEASURED_RATE_HZ

    with audio_errors():
        file = open_audio(path, LOWEST_MEASURED_RATE_HZ)
        analysis = analyse_file(path, hint_bpm)
        try:
            facts = read_facts(path)
        except UnreadableAudioError:
            # The file has no readable metadata; its audio was measured all the same.
            facts = TakeFacts()
    return _Report(file, analysis, facts)


def _show_report(report: _Report) -> None:
    lines = _describe_report(report)
    if is_terminal(sys.stdout):
        from services.audio import compute_source_peaks, draw_waveform

        with audio_errors():
            peaks = compute_source_peaks(report.file)
        columns = min(_WAVEFORM_COLUMNS, shutil.get_terminal_size().columns)
        answer_lines(draw_waveform(peaks, columns, _WAVEFORM_LINES))
    answer_fields(lines)


def _describe_report(report: _Report) -> dict[str, str]:
    file, facts = report.file, report.facts
    features, loudness = report.analysis.features, report.analysis.loudness
    tempo, key = report.analysis.tempo, report.analysis.key
    channels = "mono" if features.channels == 1 else "stereo"
    lines = {
        "file": str(file.path),
        "format": f"{file.container} {file.encoding}, {features.sample_rate} Hz, {channels}",
        **({"read": "; ".join(file.remarks)} if file.remarks else {}),
        "duration": f"{features.duration_seconds:.2f} s{_describe_missing_audio(report)}",
        "loudness": f"{_format_level(loudness.integrated_lufs)} LUFS, range "
        f"{loudness.loudness_range_lu:.1f} LU",
        "loudest": f"{_format_level(loudness.momentary_max_lufs)} LUFS in 400 ms, "
        f"{_format_level(loudness.short_term_max_lufs)} in 3 s",
        "true peak": f"{_format_level(loudness.true_peak_dbtp)} dBTP, samples "
        f"{_format_level(loudness.sample_peak_dbfs)} dBFS",
        "tempo": "none found"
        if tempo.bpm is None
        else f"{tempo.bpm:.2f} BPM, confidence {tempo.confidence:.2f}"
        + (", or perhaps half or double that" if tempo.octave_ambiguous else ""),
        "key": "none found" if key is None else f"{key.name}, confidence {key.confidence:.2f}",
        "dynamics": f"{features.dynamic_range_db:.1f} dB, crest {features.crest_factor_db:.1f} dB",
        "spectrum": f"centroid {features.spectral_centroid_hz:.0f} Hz, rolloff "
        f"{features.spectral_rolloff_hz:.0f} Hz, flatness {features.spectral_flatness:.2f}",
        "character": f"energy {features.energy:.2f}, danceability {features.danceability:.2f}",
    }
    metadata = {
        "title": facts.title,
        "prompt": facts.prompt,
        "id": facts.generation_id,
        "engine": facts.engine and f"{facts.engine} {facts.engine_version or ''}".strip(),
        "seed": facts.seed,
        "tempo": None if facts.bpm is None else f"{facts.bpm:g} BPM",
        "key": facts.key,
        "licence": facts.licence,
    }
    return lines | {
        f"metadata: {name}": str(value) for name, value in metadata.items() if value is not None
    }


def _describe_missing_audio(report: _Report) -> str:
    """Return a clause about audio that the header promises and the file lacks, or nothing."""
    missing = report.file.duration_seconds - report.analysis.features.duration_seconds
    return f", and {missing:.2f} s that cannot be read" if missing > _MISSING_SECONDS else ""


def _format_level(value: float) -> str:
    return f"{value:.1f}"


def _draw_spectrogram(file: AudioFile, target: Path) -> None:
    from services.audio import draw_source_spectrogram
    from services.audio.atomic import atomic_file

    with audio_errors():
        picture = draw_source_spectrogram(file, file.frames, labels=True)
        with atomic_file(target, "PNG") as staged:
            with staged.explain_errors():
                staged.temporary.write_bytes(picture)
            staged.finish(0)
            staged.publish()
    note(f"Wrote the spectrogram {target}.")


def _check_target(target: Path, *, force: bool) -> None:
    from services.jobs.outfile import refuse_overwrite

    if not target.name or target.is_dir():
        raise InvalidRequestError(f"Name a file to write, not {str(target)!r}.")
    refuse_overwrite(target, force=force)


def _describe_written(written: ConvertedFile) -> dict[str, Any]:
    return {
        "file": str(written.path),
        "bytes": written.bytes,
        "sha256": written.sha256,
        "frames": written.frames,
        "left_out": list(written.left_out),
    }
