"""From audio to a finished file in any format, measured as a reader will decode it."""

from __future__ import annotations

import errno
import math
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from services.audio.encoding import AudioFormat, encode
from services.audio.loudness import Loudness, decibels, measure_source
from services.audio.mastering import Flag, MasterPlan, plan_master
from services.audio.reading import UnreadableAudioError, open_audio
from services.audio.staging import Staged, staged_file
from services.audio.truepeak import ShortFilterFollower
from services.audio.wav import staged_wav_stream

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from services.audio.arrays import Audio
    from services.audio.facts import TakeFacts
    from services.audio.sources import Source

_REMASTERS = 5
_ATTENUATIONS = 5
_MARGIN_DB = 0.03
_LOWEST_CEILING_DBTP = -40.0
_TOLERANCE_LU = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFormat:
    """How a file is to be written."""

    audio_format: AudioFormat
    sample_rate: int
    """Hz, one the format has."""
    bit_depth: str | None
    """None for a lossy format."""
    dither: bool
    facts: TakeFacts | None
    """None writes the samples and nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """A finished file that waits for its name, and what is in it."""

    staged: Staged
    output_format: OutputFormat
    loudness: Loudness
    """Of the samples that a reader gets; those of lossy formats and FLAC are decoded again."""
    flags: tuple[Flag, ...] = ()
    gain_reduction_db: float = 0.0


def deliver(
    stack: ExitStack, path: str | os.PathLike[str], source: Source, output_format: OutputFormat
) -> Delivered:
    """Write everything but the name, at the levels of the source.

    Args:
        stack: removes what is not published when it ends.
        path: the file to be.
        source: at any rate; it is brought to that of the output_format.
        output_format: how.

    Raises:
        UnreadableAudioError: the source is a file that cannot be decoded to its end.
        RuntimeError: the disk says no.
    """
    source = _resampled(source, output_format.sample_rate)
    if output_format.audio_format.name == "wav":
        return _deliver_wav(stack, path, source, output_format)
    staged = stack.enter_context(staged_file(path, output_format.audio_format.label))
    heard = _encode(staged, source, output_format)
    return _finish(staged, heard, output_format)


def deliver_mastered(
    stack: ExitStack,
    path: str | os.PathLike[str],
    source: Source,
    output_format: OutputFormat,
    *,
    target_lufs: float,
    true_peak_dbtp: float,
) -> Delivered:
    """Master, and write everything but the name; the levels hold for what a reader decodes.

    A lossy encoder moves peaks up or down, and takes loudness from noise. Where the decoded file
    misses the ceiling or the loudness, the audio is mastered again for levels corrected by as
    much, and encoded and measured again. To attenuate instead would cost up to 1 LU at -9 LUFS.

    Raises:
        UnreadableAudioError: the source is a file that cannot be decoded to its end.
        RuntimeError: the disk says no.
    """
    plan = plan_master(source, target_lufs, true_peak_dbtp)
    if not output_format.audio_format.lossy:
        delivered = deliver(stack, path, _Mastered(source, plan), output_format)
        return replace(
            delivered,
            flags=plan.report.flags,
            gain_reduction_db=plan.report.gain_reduction_db,
        )
    staged = stack.enter_context(staged_file(path, output_format.audio_format.label))
    heard, plan = _fit(staged, source, plan, output_format, target_lufs, true_peak_dbtp)
    # The master may have aimed higher than the target; what counts is what is heard.
    flags: list[Flag] = [flag for flag in plan.report.flags if flag != "peak_limited"]
    shortfall_lu = target_lufs - heard.loudness.integrated_lufs
    if shortfall_lu > _TOLERANCE_LU and not _kept(plan):
        flags.append("peak_limited")
    return replace(
        _finish(staged, heard, output_format),
        flags=tuple(flags),
        gain_reduction_db=plan.report.gain_reduction_db,
    )


@dataclass(frozen=True, slots=True)
class _Heard:
    """What a reader gets out of an encoded file."""

    frames: int
    loudness: Loudness
    highest_peak_dbtp: float
    """By the meter and by the short filter of others."""


class _Mastered:
    """A source with the gains of its master, and one more."""

    def __init__(self, source: Source, plan: MasterPlan, gain: float = 1.0) -> None:
        self._source = source
        self._plan = plan
        self._gain = np.float32(gain)
        self.sample_rate = source.sample_rate
        self.channels = source.channels

    def blocks(self) -> Iterator[Audio]:
        """The mastered samples."""
        for block in self._plan.apply(self._source.blocks()):
            yield block if self._gain == 1 else block * self._gain


class _Monitored:
    """A source that is counted while it is read, and measured by the short filter as well."""

    def __init__(self, source: Source, follower: ShortFilterFollower | None = None) -> None:
        self._source = source
        self._follower = follower
        self.sample_rate = source.sample_rate
        self.channels = source.channels
        self.frames = 0

    def blocks(self) -> Iterator[Audio]:
        """The blocks of the source."""
        for block in self._source.blocks():
            self.frames += block.shape[1]
            if self._follower is not None:
                self._follower.push(block)
            yield block


@dataclass(frozen=True, slots=True, eq=False)
class _Resampled:
    """A source at another rate: as long, and not shifted (soxr VHQ, linear phase)."""

    source: Source
    sample_rate: int

    @property
    def channels(self) -> int:
        """One or two."""
        return self.source.channels

    def blocks(self) -> Iterator[Audio]:
        """The samples at the new rate, as many as last as long, rounded."""
        import soxr  # type: ignore[import-untyped]  # ships neither stubs nor py.typed

        stream = soxr.ResampleStream(
            self.source.sample_rate, self.sample_rate, self.channels, "float32", "VHQ"
        )
        for block in self.source.blocks():
            yield _in_order(stream.resample_chunk(np.ascontiguousarray(block.T)))
        ending = np.empty((0, self.channels), np.float32)
        yield _in_order(stream.resample_chunk(ending, last=True))


def _in_order(frames: NDArray[np.float32]) -> Audio:
    return np.ascontiguousarray(frames.reshape(-1, frames.shape[-1]).T)


def _resampled(source: Source, sample_rate: int) -> Source:
    """The source itself if it has the rate, otherwise brought to it."""
    return source if source.sample_rate == sample_rate else _Resampled(source, sample_rate)


def _encode(staged: Staged, source: Source, output_format: OutputFormat) -> _Heard:
    """Encode into the temporary file, and read that back."""
    with staged.writing():
        frames = encode(
            staged.temporary,
            source,
            output_format.audio_format,
            bit_depth=output_format.bit_depth,
            dither=output_format.dither,
        )
        if not frames:
            raise ValueError(
                f"The audio is too short: no samples are left at {output_format.sample_rate} Hz."
            )
        try:
            written = open_audio(staged.temporary)
            follower = ShortFilterFollower(written)
            monitored = _Monitored(written, follower)
            loudness = measure_source(monitored)
        except UnreadableAudioError as error:
            raise OSError(errno.EIO, f"it cannot be read back ({error})") from error
        if monitored.frames != frames:
            raise OSError(errno.EIO, f"{monitored.frames} of {frames} samples can be read back")
    short = decibels(float(follower.finish().max()))
    return _Heard(frames, loudness, max(loudness.true_peak_dbtp, short))


def _fit(
    staged: Staged,
    source: Source,
    plan: MasterPlan,
    output_format: OutputFormat,
    target_lufs: float,
    true_peak_dbtp: float,
) -> tuple[_Heard, MasterPlan]:
    """Encode a mastered source until what is heard has the levels; attenuate it in the end."""
    lufs, ceiling, gain = target_lufs, true_peak_dbtp, 1.0
    for attempt in range(_REMASTERS + _ATTENUATIONS):
        mastered = _resampled(_Mastered(source, plan, gain), output_format.sample_rate)
        heard = _encode(staged, mastered, output_format)
        excess_db = heard.highest_peak_dbtp - true_peak_dbtp
        missing_lu = target_lufs - heard.loudness.integrated_lufs
        at_limit = "peak_limited" in plan.report.flags and missing_lu > 0
        reached = at_limit or abs(missing_lu) <= _TOLERANCE_LU or not math.isfinite(missing_lu)
        if _kept(plan) or (excess_db <= 0 and (reached or attempt >= _REMASTERS)):
            break
        # What an encoder adds grows a little with what is limited.
        lower_db = excess_db + _MARGIN_DB * (attempt + 1) if excess_db > 0 else 0.0
        if attempt < _REMASTERS and ceiling - lower_db >= _LOWEST_CEILING_DBTP:
            ceiling -= lower_db
            lufs = lufs if reached else min(lufs + missing_lu, 0.0)
            plan = plan_master(source, lufs, ceiling)
        else:
            gain *= 10 ** (-lower_db / 20)
    return heard, plan


def _kept(plan: MasterPlan) -> bool:
    """Whether there was nothing to master, so no level is promised."""
    return not {"silent", "below_gate"}.isdisjoint(plan.report.flags)


def _finish(staged: Staged, heard: _Heard, output_format: OutputFormat) -> Delivered:
    if output_format.facts is not None:
        from services.audio.tags import write_tags

        facts = replace(output_format.facts, loudness=heard.loudness)
        with staged.writing():
            write_tags(staged.temporary, output_format.audio_format, facts)
    staged.finish(heard.frames)
    return Delivered(staged=staged, output_format=output_format, loudness=heard.loudness)


def _deliver_wav(
    stack: ExitStack, path: str | os.PathLike[str], source: Source, output_format: OutputFormat
) -> Delivered:
    assert output_format.bit_depth is not None
    # The header comes first and needs the number of samples; that of a source may be wrong.
    counted = _Monitored(source)
    loudness = measure_source(counted)
    facts = None if output_format.facts is None else replace(output_format.facts, loudness=loudness)
    staged = stack.enter_context(
        staged_wav_stream(
            path,
            source.blocks(),
            source.channels,
            counted.frames,
            source.sample_rate,
            output_format.bit_depth,
            dither=output_format.dither,
            facts=facts,
        )
    )
    return Delivered(staged=staged, output_format=output_format, loudness=loudness)
