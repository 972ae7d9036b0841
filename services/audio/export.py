"""The exporter: a tensor or array in, a mastered file out, WAV or any other format."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.audio.arrays import as_audio, check_sample_rate
from services.audio.delivery import exported
from services.audio.encoding import depth_for, format_for, rate_for
from services.audio.finishing import Delivered, OutputFormat, deliver, deliver_mastered
from services.audio.mastering import (
    DEFAULT_TARGET_LUFS,
    DEFAULT_TRUE_PEAK_DBTP,
    check_target,
    master,
)
from services.audio.sources import ArraySource
from services.audio.staging import Staged, publish_all
from services.audio.wav import (
    SUPPORTED_BIT_DEPTHS,
    check_bit_depth,
    staged_wav,
)

if TYPE_CHECKING:
    from services.audio.arrays import Audio
    from services.audio.delivery import Exported
    from services.audio.facts import TakeFacts


class AudioExporter:
    """Masters audio to one loudness and writes it.

    Args:
        target_lufs: integrated loudness of what is written; None keeps every level as it is.
        true_peak_dbtp: no true peak of what is written is above this.

    Raises:
        ValueError: levels that no master can have.
    """

    SUPPORTED_BIT_DEPTHS = SUPPORTED_BIT_DEPTHS

    def __init__(
        self,
        target_lufs: float | None = DEFAULT_TARGET_LUFS,
        true_peak_dbtp: float = DEFAULT_TRUE_PEAK_DBTP,
    ) -> None:
        check_target(target_lufs, true_peak_dbtp)
        self.target_lufs = target_lufs
        self.true_peak_dbtp = true_peak_dbtp

    def export_wav(
        self,
        audio_tensor: Any,
        output_path: str | os.PathLike[str],
        sample_rate: int = 32_000,
        normalize: bool = True,
        bit_depth: str = "PCM_16",
    ) -> tuple[Path, int]:
        """Write one file; return its path and size in bytes.

        Args:
            audio_tensor: `(samples,)` or `(channels, samples)`, see `as_audio`.
            output_path: the file; its folders are made, an existing file is replaced.
            sample_rate: 8000 to 192000 Hz.
            normalize: master to the levels of this exporter; otherwise the samples are kept,
                rounded to the nearest step and held at full scale where PCM cannot carry them.
            bit_depth: one of `SUPPORTED_BIT_DEPTHS`.

        Raises:
            TypeError: neither a tensor nor an array.
            ValueError: the audio, the rate or the bit depth cannot be written; no file is made.
            RuntimeError: "Could not write WAV file ..." when the disk says no.
        """
        check_bit_depth(bit_depth)
        audio = as_audio(audio_tensor)
        rate = check_sample_rate(sample_rate)
        with ExitStack() as stack:
            staged = self._stage(stack, audio, output_path, rate, normalize, bit_depth)
            staged.publish()
        return staged.written.path, staged.written.bytes

    def export_wav_batch(
        self,
        audio_tensors: Sequence[Any],
        output_paths: Sequence[str | os.PathLike[str]],
        sample_rate: int = 32_000,
        normalize: bool = True,
    ) -> list[tuple[Path, int]]:
        """Write several 16-bit files, all or none.

        Everything is checked before the first file is written, and written before the first file
        gets its name.

        Raises:
            TypeError, ValueError, RuntimeError: as `export_wav`; ValueError also for lists of
                different length and for a path that comes twice.
        """
        if len(audio_tensors) != len(output_paths):
            raise ValueError(
                f"Length mismatch: {len(audio_tensors)} audio tensors, "
                f"{len(output_paths)} output paths."
            )
        _check_distinct(output_paths)
        audios = [as_audio(tensor) for tensor in audio_tensors]
        rate = check_sample_rate(sample_rate)
        with ExitStack() as stack:
            staged = [
                self._stage(stack, audio, path, rate, normalize, "PCM_16")
                for audio, path in zip(audios, output_paths, strict=True)
            ]
            publish_all(staged)
        return [(one.written.path, one.written.bytes) for one in staged]

    def export(
        self,
        audio: Any,
        path: str | os.PathLike[str],
        sample_rate: int,
        *,
        audio_format: str | None = None,
        bit_depth: str | None = None,
        normalize: bool = True,
        facts: TakeFacts | None = None,
        keep_raw: bool = False,
    ) -> Exported:
        """Write one file in any format.

        What is decoded from the file keeps the ceiling of this exporter, lossy formats included,
        and its loudness is within 0.1 LU of the target or flagged.

        Args:
            audio: `(samples,)` or `(channels, samples)`, see `as_audio`.
            path: the file; its folders are made, an existing file is replaced.
            sample_rate: 8000 to 192000 Hz; resampled where the format does not have it.
            audio_format: wav, flac, mp3, ogg or opus; otherwise the suffix says it.
            bit_depth: of WAV and FLAC, 16 bit if not given.
            normalize: master to the levels of this exporter; otherwise no level is changed.
            facts: what the file says about itself, with the loudness measured here; None writes
                the samples and nothing else.
            keep_raw: also write `NAME.raw.wav` beside it: the audio as it came, 32-bit float. Both
                files or none.

        Raises:
            TypeError: neither a tensor nor an array.
            ValueError: the audio, rate, format or bit depth cannot be written; no file is made.
            RuntimeError: "Could not write ... file ..." when the disk says no.
        """
        signal, rate = as_audio(audio), check_sample_rate(sample_rate)
        output_format = self._choose_output_format(
            path, rate, audio_format, bit_depth, normalize, facts
        )
        raw_path = Path(path).with_suffix(".raw.wav")
        with ExitStack() as stack:
            staged = [self._deliver(stack, path, signal, rate, normalize, output_format)]
            if keep_raw:
                raw_format = self._choose_output_format(
                    raw_path, rate, "wav", "FLOAT", False, facts
                )
                staged.append(self._deliver(stack, raw_path, signal, rate, False, raw_format))
            publish_all([one.staged for one in staged])
        return exported(*staged)

    def export_batch(
        self,
        audios: Sequence[Any],
        paths: Sequence[str | os.PathLike[str]],
        sample_rate: int,
        *,
        bit_depth: str | None = None,
        normalize: bool = True,
        facts: Sequence[TakeFacts | None] | None = None,
    ) -> list[Exported]:
        """Write several files, each in the format of its suffix, all or none.

        Everything is checked before the first file is written, and written before the first file
        gets its name.

        Args:
            audios: one for each path; the same one several times gives it in several formats.
            paths: the files.
            sample_rate: 8000 to 192000 Hz, of all.
            bit_depth: of those whose format has one.
            normalize: as `export`.
            facts: one for each path.

        Raises:
            TypeError, ValueError, RuntimeError: as `export`; ValueError also for lists of
                different length and for a path that comes twice.
        """
        known = [None] * len(paths) if facts is None else list(facts)
        if not len(audios) == len(paths) == len(known):
            raise ValueError(
                f"Length mismatch: {len(audios)} audio tensors, {len(paths)} output paths, "
                f"{len(known)} facts."
            )
        _check_distinct(paths)
        rate = check_sample_rate(sample_rate)
        signals = [as_audio(audio) for audio in audios]
        output_formats = [
            self._choose_output_format(path, rate, None, bit_depth, normalize, fact, mixed=True)
            for path, fact in zip(paths, known, strict=True)
        ]
        with ExitStack() as stack:
            staged = [
                self._deliver(stack, path, signal, rate, normalize, output_format)
                for path, signal, output_format in zip(paths, signals, output_formats, strict=True)
            ]
            publish_all([one.staged for one in staged])
        return [exported(one) for one in staged]

    def get_info(self) -> dict[str, Any]:
        """The levels and formats of this exporter."""
        return {
            "target_lufs": self.target_lufs,
            "true_peak_dbtp": self.true_peak_dbtp,
            "normalization_available": True,
            "supported_bit_depths": list(self.SUPPORTED_BIT_DEPTHS),
        }

    def _stage(
        self,
        stack: ExitStack,
        audio: Audio,
        path: str | os.PathLike[str],
        rate: int,
        normalize: bool,
        bit_depth: str,
    ) -> Staged:
        normalize = normalize and self.target_lufs is not None
        if normalize:
            audio = master(audio, rate, self.target_lufs, self.true_peak_dbtp).audio
        return stack.enter_context(staged_wav(path, audio, rate, bit_depth, dither=normalize))

    def _choose_output_format(
        self,
        path: str | os.PathLike[str],
        rate: int,
        audio_format: str | None,
        bit_depth: str | None,
        normalize: bool,
        facts: TakeFacts | None,
        *,
        mixed: bool = False,
    ) -> OutputFormat:
        wanted = format_for(path, audio_format)
        return OutputFormat(
            audio_format=wanted,
            sample_rate=rate_for(wanted, rate),
            bit_depth=depth_for(wanted, None if mixed and wanted.lossy else bit_depth),
            dither=normalize and self.target_lufs is not None,
            facts=facts,
        )

    def _deliver(
        self,
        stack: ExitStack,
        path: str | os.PathLike[str],
        audio: Audio,
        rate: int,
        normalize: bool,
        output_format: OutputFormat,
    ) -> Delivered:
        source = ArraySource(audio, rate)
        if not normalize or self.target_lufs is None:
            return deliver(stack, path, source, output_format)
        return deliver_mastered(
            stack,
            path,
            source,
            output_format,
            target_lufs=self.target_lufs,
            true_peak_dbtp=self.true_peak_dbtp,
        )


def _check_distinct(paths: Sequence[str | os.PathLike[str]]) -> None:
    seen: set[str] = set()
    for path in paths:
        real = os.path.realpath(path)
        if real in seen:
            raise ValueError(f"Duplicate output path: {os.fspath(path)} comes twice.")
        seen.add(real)
