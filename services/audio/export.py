"""Master a tensor or array and write it to a file, in WAV or any other format."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.audio.arrays import as_audio, check_sample_rate
from services.audio.atomic import AtomicFile, publish_all
from services.audio.conversion import describe_output
from services.audio.encoding import choose_bit_depth, choose_format, choose_sample_rate
from services.audio.mastering import (
    DEFAULT_TARGET_LUFS,
    DEFAULT_TRUE_PEAK_DBTP,
    check_target,
    master,
)
from services.audio.output import Output, OutputFormat, write_mastered_output, write_output
from services.audio.sources import ArraySource
from services.audio.wav import (
    SUPPORTED_BIT_DEPTHS,
    atomic_wav,
    check_bit_depth,
)

if TYPE_CHECKING:
    from services.audio.arrays import Audio
    from services.audio.conversion import Exported
    from services.audio.facts import TakeFacts


class AudioExporter:
    """Masters audio to a loudness and writes it.

    Args:
        target_lufs: integrated loudness of the files; None keeps the levels.
        true_peak_dbtp: highest true peak of the files.

    Raises:
        ValueError: see `check_target`.
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
        """Write a WAV file without metadata; return its path and size in bytes.

        Args:
            audio_tensor: `(samples,)` or `(channels, samples)`, see `as_audio`.
            output_path: the file; its folders are created, an existing file is replaced.
            sample_rate: 8000 to 192000 Hz.
            normalize: master to the levels of this exporter. Otherwise the samples are kept; PCM
                rounds them to the nearest step and clips them at full scale.
            bit_depth: one of `SUPPORTED_BIT_DEPTHS`.

        Raises:
            TypeError: not a tensor or array.
            ValueError: the audio, sample rate or bit depth is invalid. No file is created.
            RuntimeError: "Could not write WAV file ..."; the message gives the reason.
        """
        check_bit_depth(bit_depth)
        audio = as_audio(audio_tensor)
        rate = check_sample_rate(sample_rate)
        with ExitStack() as stack:
            file = self._write_wav(stack, audio, output_path, rate, normalize, bit_depth)
            file.publish()
        return file.written_file.path, file.written_file.bytes

    def export_wav_batch(
        self,
        audio_tensors: Sequence[Any],
        output_paths: Sequence[str | os.PathLike[str]],
        sample_rate: int = 32_000,
        normalize: bool = True,
    ) -> list[tuple[Path, int]]:
        """Write several 16-bit WAV files, all or none; return their paths and sizes in bytes.

        All arguments are checked before the first file is written.

        Raises:
            TypeError, ValueError, RuntimeError: see `export_wav`; ValueError also for lists of
                different lengths and for a path that occurs twice.
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
            outputs = [
                self._write_wav(stack, audio, path, rate, normalize, "PCM_16")
                for audio, path in zip(audios, output_paths, strict=True)
            ]
            publish_all(outputs)
        return [(one.written_file.path, one.written_file.bytes) for one in outputs]

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

        The decoded samples keep the true-peak ceiling of this exporter, in lossy formats too.
        Their loudness is within 0.1 LU of the target, or the result has the flag `peak_limited`.

        Args:
            audio: `(samples,)` or `(channels, samples)`, see `as_audio`.
            path: the file; its folders are created, an existing file is replaced.
            sample_rate: 8000 to 192000 Hz. The audio is resampled if the format lacks the rate.
            audio_format: wav, flac, mp3, ogg or opus; by default the suffix decides.
            bit_depth: for WAV and FLAC; 16 bit by default.
            normalize: master to the levels of this exporter; otherwise the levels are kept.
            facts: metadata for the file; its loudness is replaced by the measured one. None writes
                no metadata.
            keep_raw: also write the audio before mastering to `NAME.raw.wav`, as 32-bit float.
                Either both files appear or none.

        Raises:
            TypeError: not a tensor or array.
            ValueError: the audio, sample rate, format or bit depth is invalid. No file is created.
            RuntimeError: "Could not write ... file ..."; the message gives the reason.
        """
        signal, rate = as_audio(audio), check_sample_rate(sample_rate)
        output_format = self._choose_output_format(
            path, rate, audio_format, bit_depth, normalize, facts
        )
        raw_path = Path(path).with_suffix(".raw.wav")
        with ExitStack() as stack:
            outputs = [self._write_output(stack, path, signal, rate, normalize, output_format)]
            if keep_raw:
                raw_format = self._choose_output_format(
                    raw_path, rate, "wav", "FLOAT", False, facts
                )
                outputs.append(self._write_output(stack, raw_path, signal, rate, False, raw_format))
            publish_all([one.file for one in outputs])
        return describe_output(*outputs)

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

        All arguments are checked before the first file is written.

        Args:
            audios: one per path; repeat one to write it in several formats.
            paths: the files.
            sample_rate: 8000 to 192000 Hz, of all `audios`.
            bit_depth: for the files whose format has one.
            normalize: see `export`.
            facts: metadata, one per path.

        Raises:
            TypeError, ValueError, RuntimeError: see `export`; ValueError also for lists of
                different lengths and for a path that occurs twice.
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
            outputs = [
                self._write_output(stack, path, signal, rate, normalize, output_format)
                for path, signal, output_format in zip(paths, signals, output_formats, strict=True)
            ]
            publish_all([one.file for one in outputs])
        return [describe_output(one) for one in outputs]

    def get_info(self) -> dict[str, Any]:
        return {
            "target_lufs": self.target_lufs,
            "true_peak_dbtp": self.true_peak_dbtp,
            "normalization_available": True,
            "supported_bit_depths": list(self.SUPPORTED_BIT_DEPTHS),
        }

    def _write_wav(
        self,
        stack: ExitStack,
        audio: Audio,
        path: str | os.PathLike[str],
        rate: int,
        normalize: bool,
        bit_depth: str,
    ) -> AtomicFile:
        normalize = normalize and self.target_lufs is not None
        if normalize:
            audio = master(audio, rate, self.target_lufs, self.true_peak_dbtp).audio
        return stack.enter_context(atomic_wav(path, audio, rate, bit_depth, dither=normalize))

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
        wanted = choose_format(path, audio_format)
        return OutputFormat(
            audio_format=wanted,
            sample_rate=choose_sample_rate(wanted, rate),
            bit_depth=choose_bit_depth(wanted, None if mixed and wanted.is_lossy else bit_depth),
            dither=normalize and self.target_lufs is not None,
            facts=facts,
        )

    def _write_output(
        self,
        stack: ExitStack,
        path: str | os.PathLike[str],
        audio: Audio,
        rate: int,
        normalize: bool,
        output_format: OutputFormat,
    ) -> Output:
        source = ArraySource(audio, rate)
        if not normalize or self.target_lufs is None:
            return write_output(stack, path, source, output_format)
        return write_mastered_output(
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
            raise ValueError(f"Duplicate output path: {os.fspath(path)}. Each file needs its own.")
        seen.add(real)
