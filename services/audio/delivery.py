"""From file to file, converted or mastered, never with all samples in memory."""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.audio.encoding import (
    AudioFormat,
    check_exact_rate,
    depth_for,
    format_for,
    rate_for,
)
from services.audio.facts import TakeFacts
from services.audio.finishing import Delivered, OutputFormat, deliver, deliver_mastered
from services.audio.mastering import DEFAULT_TARGET_LUFS, DEFAULT_TRUE_PEAK_DBTP, check_target
from services.audio.reading import AudioFile, UnreadableAudioError, open_audio
from services.audio.wav import BITS

if TYPE_CHECKING:
    from services.audio.loudness import Loudness
    from services.audio.mastering import Flag
    from services.audio.staging import WrittenFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A file that was written, and what a reader will find in it."""

    file: WrittenFile
    audio_format: str
    """wav, flac, mp3, ogg or opus."""
    media_type: str
    sample_rate: int
    """Hz in the file; the next one up where the format does not have the rate of the audio."""
    bit_depth: str | None
    """None for a lossy format."""
    loudness: Loudness
    """Measured on the samples as they are decoded."""
    gain_reduction_db: float
    """The most the limiter took away."""
    flags: tuple[Flag, ...]
    """As mastering has them; none where it was not asked for."""
    raw: WrittenFile | None = None
    """The audio before mastering, 32-bit float."""

    def to_dict(self) -> dict[str, Any]:
        """What is in the file, JSON-ready."""
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
            **self.loudness.to_dict(),
        }


def exported(delivered: Delivered, raw: Delivered | None = None) -> Exported:
    """What a delivered file is once it is published."""
    output_format = delivered.output_format
    return Exported(
        file=delivered.staged.written,
        audio_format=output_format.audio_format.name,
        media_type=output_format.audio_format.media_type,
        sample_rate=output_format.sample_rate,
        bit_depth=output_format.bit_depth,
        loudness=delivered.loudness,
        gain_reduction_db=delivered.gain_reduction_db,
        flags=delivered.flags,
        raw=None if raw is None else raw.staged.written,
    )


def convert_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    audio_format: str | None = None,
    bit_depth: str | None = None,
    sample_rate: int | None = None,
    facts: TakeFacts | None = None,
) -> WrittenFile:
    """Write the audio of a file in another format, at the same levels.

    Memory does not grow with the length. No level is changed: a lossy file may peak a few tenths
    of a dB above its source, and what is above full scale is held there in PCM. Samples that the
    new bit depth can hold are kept exactly, otherwise they are dithered.

    Args:
        source: anything `open_audio` opens.
        target: the file; its folders are made, an existing file is replaced, the source too.
        audio_format: name of the format; otherwise the suffix of the target says it.
        bit_depth: of WAV and FLAC; otherwise that of the source, or 24 bit where it has none or
            the format does not have it.
        sample_rate: otherwise that of the source, or the next one that the format has.
        facts: what the new file says about itself; otherwise what the source says. The loudness
            is measured.

    Raises:
        FileNotFoundError: there is no such source.
        UnreadableAudioError: it holds no audio that can be used.
        ValueError: the format, its bit depth or its rate are not to be had.
        RuntimeError: the disk says no.
    """
    found = open_audio(source)
    output_format = _choose_output_format(
        found, target, audio_format, bit_depth, sample_rate, facts
    )
    with ExitStack() as stack:
        delivered = deliver(stack, target, found, output_format)
        delivered.staged.publish()
    return delivered.staged.written


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
    """Bring a file to a loudness under a true-peak ceiling, in any format.

    Args:
        source: anything `open_audio` opens; it is read several times.
        target: the file; its folders are made, an existing file is replaced, the source too.
        target_lufs: integrated loudness of the new file as it is decoded; None keeps the levels.
        true_peak_dbtp: no true peak of the new file as it is decoded is above this.
        audio_format: as for `convert_file`.
        bit_depth: as for `convert_file`.
        facts: as for `convert_file`.

    Raises:
        FileNotFoundError, UnreadableAudioError, RuntimeError: as `convert_file`.
        ValueError: as `convert_file`, and levels that no master can have.
    """
    check_target(target_lufs, true_peak_dbtp)
    found = open_audio(source)
    output_format = _choose_output_format(found, target, audio_format, bit_depth, None, facts)
    with ExitStack() as stack:
        if target_lufs is None:
            delivered = deliver(stack, target, found, output_format)
        else:
            delivered = deliver_mastered(
                stack,
                target,
                found,
                replace(output_format, dither=True),
                target_lufs=target_lufs,
                true_peak_dbtp=true_peak_dbtp,
            )
        delivered.staged.publish()
    return exported(delivered)


def _choose_output_format(
    source: AudioFile,
    target: str | os.PathLike[str],
    audio_format: str | None,
    bit_depth: str | None,
    sample_rate: int | None,
    facts: TakeFacts | None,
) -> OutputFormat:
    wanted = format_for(target, audio_format)
    if sample_rate is not None:
        check_exact_rate(wanted, sample_rate)
    depth = depth_for(wanted, bit_depth) if bit_depth else _kept_depth(wanted, source)
    rate = sample_rate or rate_for(wanted, source.sample_rate)
    return OutputFormat(
        audio_format=wanted,
        sample_rate=rate,
        bit_depth=depth,
        dither=rate != source.sample_rate or not _holds(depth, source.bit_depth),
        facts=_facts_in(source.path) if facts is None else facts,
    )


def _facts_in(path: Path) -> TakeFacts:
    from services.audio.tags import read_facts

    with suppress(UnreadableAudioError):
        return read_facts(path)
    return TakeFacts()


def _holds(bit_depth: str | None, source_bits: int | None) -> bool:
    """Whether PCM of this depth keeps samples of `source_bits` exactly."""
    return source_bits is not None and source_bits <= BITS.get(bit_depth or "", 0)


def _kept_depth(audio_format: AudioFormat, source: AudioFile) -> str | None:
    """The least depth of the format that keeps the samples of the source; else 24 bit."""
    if audio_format.lossy:
        return None
    if source.encoding in {"FLOAT", "DOUBLE"} and "FLOAT" in audio_format.bit_depths:
        return "FLOAT"
    for depth in audio_format.bit_depths:
        if depth != "FLOAT" and _holds(depth, source.bit_depth):
            return depth
    return "PCM_24"
