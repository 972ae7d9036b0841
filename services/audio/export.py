"""The exporter: a tensor or array in, a mastered WAV file out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.audio.arrays import as_audio, check_sample_rate
from services.audio.mastering import (
    DEFAULT_TARGET_LUFS,
    DEFAULT_TRUE_PEAK_DBTP,
    check_target,
    master,
)
from services.audio.staging import Staged, publish_all
from services.audio.wav import (
    SUPPORTED_BIT_DEPTHS,
    check_bit_depth,
    staged_wav,
)

if TYPE_CHECKING:
    from services.audio.arrays import Audio


class AudioExporter:
    """Masters audio to one loudness and writes it as WAV.

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


def _check_distinct(paths: Sequence[str | os.PathLike[str]]) -> None:
    seen: set[str] = set()
    for path in paths:
        real = os.path.realpath(path)
        if real in seen:
            raise ValueError(f"Duplicate output path: {os.fspath(path)} comes twice.")
        seen.add(real)
