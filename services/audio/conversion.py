"""Convert or master a file into another one, without loading all samples into memory."""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.audio.atomic import WrittenFile
from services.audio.encoding import (
    AudioFormat,
    check_exact_rate,
    choose_bit_depth,
    choose_format,
    choose_sample_rate,
)
from services.audio.facts import TakeFacts
from services.audio.mastering import DEFAULT_TARGET_LUFS, DEFAULT_TRUE_PEAK_DBTP, check_target
from services.audio.output import Output, OutputFormat, write_mastered_output, write_output
from services.audio.reading import AudioFile, UnreadableAudioError, open_audio
from services.audio.wav import BITS

if TYPE_CHECKING:
    from services.audio.carried import Carried
    from services.audio.loudness import Loudness
    from services.audio.mastering import Flag


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A published file and the audio in it."""

    file: WrittenFile
    audio_format: str
    """wav, flac, mp3, ogg or opus."""
    media_type: str
    sample_rate: int
    """Hz, of the file; see `choose_sample_rate`."""
    bit_depth: str | None
    """None for a lossy format."""
    loudness: Loudness
    """Of the decoded samples."""
    gain_reduction_db: float
    """The largest gain reduction of the limiter."""
    flags: tuple[Flag, ...]
    """See `MasterReport.flags`; empty without mastering."""
    raw: WrittenFile | None = None
    """The audio before mastering, 32-bit float."""
    left_out: tuple[str, ...] = ()
    """Metadata of the source that the file does not have, for messages."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "audio_format": self.audio_format,
            "media_type": self.media_type,
            "bytes": self.file.bytes,
            "sha256": self.file.sha256,
            "frames": self.file.frames,
            "sample_rate": self.sample_rate,
            "bit_depth": self.bit_depth,
            "gain_reduction_db": self.gain_reduction_db,
            "flags": list(self.flags),
            "left_out": list(self.left_out),
            **self.loudness.to_dict(),
        }


@dataclass(frozen=True, slots=True)
class ConvertedFile(WrittenFile):
    left_out: tuple[str, ...] = ()
    """Metadata of the source that the file does not have, for messages."""


def describe_output(output: Output, raw: Output | None = None) -> Exported:
    output_format = output.output_format
    return Exported(
        file=output.file.written_file,
        audio_format=output_format.audio_format.name,
        media_type=output_format.audio_format.media_type,
        sample_rate=output_format.sample_rate,
        bit_depth=output_format.bit_depth,
        loudness=output.loudness,
        gain_reduction_db=output.gain_reduction_db,
        flags=output.flags,
        raw=None if raw is None else raw.file.written_file,
        left_out=_list_left_out(output_format),
    )


def _list_left_out(output_format: OutputFormat) -> tuple[str, ...]:
    if output_format.carried is None:
        return ()
    from services.audio.carried_writing import list_lost

    return list_lost(output_format.carried, output_format.audio_format.name)


def convert_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    audio_format: str | None = None,
    bit_depth: str | None = None,
    sample_rate: int | None = None,
    facts: TakeFacts | None = None,
) -> ConvertedFile:
    """Write the audio of a file in another format, at the same levels.

    All metadata that the format can hold pass: between files of one format as they are, with
    positions at the new sample rate; the result names the rest.

    No gain is applied: a lossy file may peak a few tenths of a dB above its source, and PCM is
    clipped at full scale. Samples that the new bit depth can hold are kept exactly; others are
    dithered. Memory does not grow with the length.

    Args:
        source: any file that `open_audio` opens.
        target: the file to write. Its folders are created, and an existing file is replaced; it
            may be the source.
        audio_format: name of the format; by default the suffix of the target decides.
        bit_depth: for WAV and FLAC; by default the lowest depth that keeps the samples of the
            source, or 24 bit.
        sample_rate: Hz; by default that of the source, see `choose_sample_rate`.
        facts: metadata for the new file, in the place of all that the source says of itself. The
            loudness is measured.

    Raises:
        FileNotFoundError: the source does not exist.
        UnreadableAudioError: the source has no usable audio.
        ValueError: the format is unknown, or does not have the bit depth or sample rate.
        RuntimeError: the target cannot be written.
    """
    found = open_audio(source)
    output_format = _choose_output_format(
        found, target, audio_format, bit_depth, sample_rate, facts, new_levels=False
    )
    with ExitStack() as stack:
        output = write_output(stack, target, found, output_format)
        output.file.publish()
    written = output.file.written_file
    return ConvertedFile(
        written.path, written.bytes, written.sha256, written.frames, _list_left_out(output_format)
    )


def normalise_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    target_lufs: float | None = DEFAULT_TARGET_LUFS,
    true_peak_dbtp: float = DEFAULT_TRUE_PEAK_DBTP,
    audio_format: str | None = None,
    bit_depth: str | None = None,
    facts: TakeFacts | None = None,
) -> Exported:
    """Master a file to a loudness under a true-peak ceiling, in any format.

    Both levels hold for the decoded samples of the new file. Metadata pass as in `convert_file`,
    except for levels that no longer hold. The other arguments are those of
    `convert_file`.

    Args:
        source: any file that `open_audio` opens; it is read several times.
        target: the file to write.
        target_lufs: integrated loudness; None keeps the levels.
        true_peak_dbtp: highest true peak.
        audio_format: name of the format.
        bit_depth: for WAV and FLAC.
        facts: metadata for the new file.

    Raises:
        FileNotFoundError, UnreadableAudioError, RuntimeError: see `convert_file`.
        ValueError: see `convert_file` and `check_target`.
    """
    check_target(target_lufs, true_peak_dbtp)
    found = open_audio(source)
    new_levels = target_lufs is not None
    output_format = _choose_output_format(
        found, target, audio_format, bit_depth, None, facts, new_levels=new_levels
    )
    with ExitStack() as stack:
        if target_lufs is None:
            output = write_output(stack, target, found, output_format)
        else:
            output = write_mastered_output(
                stack,
                target,
                found,
                replace(output_format, dither=True),
                target_lufs=target_lufs,
                true_peak_dbtp=true_peak_dbtp,
            )
        output.file.publish()
    return describe_output(output)


def _choose_output_format(
    source: AudioFile,
    target: str | os.PathLike[str],
    audio_format: str | None,
    bit_depth: str | None,
    sample_rate: int | None,
    facts: TakeFacts | None,
    *,
    new_levels: bool,
) -> OutputFormat:
    wanted = choose_format(target, audio_format)
    # The sum of more channels is louder or softer than they were stated to be.
    new_levels = new_levels or source.is_mixed_down
    if sample_rate is not None:
        check_exact_rate(wanted, sample_rate)
    depth = (
        choose_bit_depth(wanted, bit_depth) if bit_depth else _choose_lossless_depth(wanted, source)
    )
    rate = sample_rate or choose_sample_rate(wanted, source.sample_rate)
    known = _read_facts(source.path) if facts is None else facts
    return OutputFormat(
        audio_format=wanted,
        sample_rate=rate,
        bit_depth=depth,
        dither=rate != source.sample_rate or not _can_hold(depth, source.bit_depth),
        facts=known,
        carried=_read_carried(source, known, wanted.name, rate, new_levels=new_levels)
        if facts is None
        else None,
        new_levels=new_levels,
    )


def _read_carried(
    source: AudioFile, facts: TakeFacts, audio_format: str, rate: int, *, new_levels: bool
) -> Carried:
    from services.audio.carried_fitting import fit_carried
    from services.audio.carried_reading import read_carried
    from services.audio.carried_writing import drop_old_levels, drop_own

    carried = read_carried(source)
    if facts.is_take:
        carried = drop_own(carried, facts, source.frames, audio_format)
    carried = drop_old_levels(carried, new_levels=new_levels)
    return fit_carried(carried, facts, audio_format, rate)


def _read_facts(path: Path) -> TakeFacts:
    from services.audio.tags import read_facts

    with suppress(UnreadableAudioError):
        return read_facts(path)
    return TakeFacts()


def _can_hold(bit_depth: str | None, source_bits: int | None) -> bool:
    """Return whether PCM of this depth keeps samples of `source_bits` exactly."""
    return source_bits is not None and source_bits <= BITS.get(bit_depth or "", 0)


def _choose_lossless_depth(audio_format: AudioFormat, source: AudioFile) -> str | None:
    """Return the lowest depth of the format that keeps the samples of the source, or 24 bit."""
    if audio_format.is_lossy:
        return None
    # A mix of more channels may be louder than full scale.
    is_float = source.encoding in {"FLOAT", "DOUBLE"} or source.is_mixed_down
    if is_float and "FLOAT" in audio_format.bit_depths:
        return "FLOAT"
    for depth in audio_format.bit_depths:
        if depth != "FLOAT" and _can_hold(depth, source.bit_depth):
            return depth
    return "PCM_24"
