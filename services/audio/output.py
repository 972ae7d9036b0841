"""Write audio to a file in any format, and measure the file as a reader decodes it."""

from __future__ import annotations

import errno
import math
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from services.audio.atomic import AtomicFile, atomic_file
from services.audio.encoding import AudioFormat, encode
from services.audio.loudness import Loudness, decibels, measure_source
from services.audio.mastering import Flag, MasterPlan, plan_master
from services.audio.reading import UnreadableAudioError, open_audio
from services.audio.resampling import resample
from services.audio.truepeak import METER_ERROR_DB, ShortFilterFollower
from services.audio.wav import BITS, atomic_wav_stream
from services.audio.wav_chunks import WavFormat

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from services.audio.arrays import Audio
    from services.audio.carried import Carried
    from services.audio.facts import TakeFacts
    from services.audio.sources import Source

_MAX_REMASTERS = 5
_MAX_ATTENUATIONS = 5
_MARGIN_DB = 0.03
_LOWEST_CEILING_DBTP = -40.0
_TOLERANCE_LU = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFormat:
    """Encoding and metadata of a file to write."""

    audio_format: AudioFormat
    sample_rate: int
    """Hz; the format has to have it."""
    bit_depth: str | None
    """None for a lossy format."""
    dither: bool
    facts: TakeFacts | None
    """None writes no metadata."""
    carried: Carried | None = None
    """What others wrote into the source; then `facts` are written as a take's if they are."""
    new_levels: bool = False
    """The levels are not those of the source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A finished file that is not yet published."""

    file: AtomicFile
    output_format: OutputFormat
    loudness: Loudness
    """Of the decoded file; for WAV, of the samples before they are quantised."""
    flags: tuple[Flag, ...] = ()
    gain_reduction_db: float = 0.0


def write_output(
    stack: ExitStack, path: str | os.PathLike[str], source: Source, output_format: OutputFormat
) -> Output:
    """Write a file at the levels of the source, without publishing it.

    Args:
        stack: deletes the file at its end unless it has been published.
        path: the file to write.
        source: audio at any rate; it is resampled to the rate of the format.
        output_format: encoding and metadata.

    Raises:
        UnreadableAudioError: the source is a file that cannot be decoded completely.
        ValueError: the audio is too short for the sample rate.
        RuntimeError: the file cannot be written.
    """
    source = resample(source, output_format.sample_rate)
    if output_format.audio_format.name == "wav":
        return _write_wav_output(stack, path, source, output_format)
    file = stack.enter_context(atomic_file(path, output_format.audio_format.label))
    decoded = _encode(file, source, output_format)
    return _finish_output(file, decoded, output_format)


def write_mastered_output(
    stack: ExitStack,
    path: str | os.PathLike[str],
    source: Source,
    output_format: OutputFormat,
    *,
    target_lufs: float,
    true_peak_dbtp: float,
) -> Output:
    """Master and write a file like `write_output`; the levels hold for the decoded samples.

    A lossy encoder shifts peaks and reduces the loudness of noise. If the decoded file misses the
    ceiling or the loudness, the audio is mastered to corrected levels, encoded and measured again.
    Attenuation instead would cost up to 1 LU at -9 LUFS.

    Raises:
        UnreadableAudioError, ValueError, RuntimeError: see `write_output`.
    """
    plan = plan_master(source, target_lufs, true_peak_dbtp)
    if not output_format.audio_format.is_lossy:
        output = write_output(stack, path, _MasteredSource(source, plan), output_format)
        return replace(
            output,
            flags=plan.report.flags,
            gain_reduction_db=plan.report.gain_reduction_db,
        )
    file = stack.enter_context(atomic_file(path, output_format.audio_format.label))
    decoded, plan = _encode_to_levels(
        file, source, plan, output_format, target_lufs, true_peak_dbtp
    )
    # The master may aim above the target; only the decoded loudness counts.
    flags: list[Flag] = [flag for flag in plan.report.flags if flag != "peak_limited"]
    shortfall_lu = target_lufs - decoded.loudness.integrated_lufs
    if shortfall_lu > _TOLERANCE_LU and not _keeps_levels(plan):
        flags.append("peak_limited")
    return replace(
        _finish_output(file, decoded, output_format),
        flags=tuple(flags),
        gain_reduction_db=plan.report.gain_reduction_db,
    )


@dataclass(frozen=True, slots=True)
class _Decoded:
    """Length and levels of a decoded file."""

    frames: int
    loudness: Loudness
    highest_peak_dbtp: float
    """The higher reading of the two interpolators of `truepeak`."""


class _MasteredSource:
    """A source after the gains of its master and one constant gain."""

    def __init__(self, source: Source, plan: MasterPlan, gain: float = 1.0) -> None:
        self._source = source
        self._plan = plan
        self._gain = np.float32(gain)
        self.sample_rate = source.sample_rate
        self.channels = source.channels

    def blocks(self) -> Iterator[Audio]:
        for block in self._plan.apply(self._source.blocks()):
            yield block if self._gain == 1 else block * self._gain


class _CountingSource:
    """A source that counts its samples and feeds a peak meter while it is read."""

    def __init__(self, source: Source, follower: ShortFilterFollower | None = None) -> None:
        self._source = source
        self._follower = follower
        self.sample_rate = source.sample_rate
        self.channels = source.channels
        self.frames = 0

    def blocks(self) -> Iterator[Audio]:
        for block in self._source.blocks():
            self.frames += block.shape[1]
            if self._follower is not None:
                self._follower.push(block)
            yield block


def _encode(file: AtomicFile, source: Source, output_format: OutputFormat) -> _Decoded:
    """Encode into the temporary file, decode that again and measure it."""
    with file.explain_errors():
        frames = encode(
            file.temporary,
            source,
            output_format.audio_format,
            bit_depth=output_format.bit_depth,
            dither=output_format.dither,
        )
        try:
            written = open_audio(file.temporary)
            follower = ShortFilterFollower(written)
            counting = _CountingSource(written, follower)
            loudness = measure_source(counting)
        except UnreadableAudioError as error:
            raise OSError(errno.EIO, f"the written file cannot be read ({error})") from error
        if counting.frames != frames:
            raise OSError(
                errno.EIO, f"only {counting.frames} of {frames} samples of the file can be read"
            )
    short = decibels(float(follower.finish().max()))
    return _Decoded(frames, loudness, max(loudness.true_peak_dbtp, short))


def _encode_to_levels(
    file: AtomicFile,
    source: Source,
    plan: MasterPlan,
    output_format: OutputFormat,
    target_lufs: float,
    true_peak_dbtp: float,
) -> tuple[_Decoded, MasterPlan]:
    """Master and encode until the decoded file has the levels; attenuate if that fails."""
    lufs, ceiling, gain = target_lufs, true_peak_dbtp, 1.0
    for attempt in range(_MAX_REMASTERS + _MAX_ATTENUATIONS):
        mastered = resample(_MasteredSource(source, plan, gain), output_format.sample_rate)
        decoded = _encode(file, mastered, output_format)
        excess_db = decoded.highest_peak_dbtp + METER_ERROR_DB - true_peak_dbtp
        missing_lu = target_lufs - decoded.loudness.integrated_lufs
        at_limit = "peak_limited" in plan.report.flags and missing_lu > 0
        reached = at_limit or abs(missing_lu) <= _TOLERANCE_LU or not math.isfinite(missing_lu)
        if _keeps_levels(plan) or (excess_db <= 0 and (reached or attempt >= _MAX_REMASTERS)):
            break
        # The overshoot of an encoder grows slightly with the amount of limiting.
        lower_db = excess_db + _MARGIN_DB * (attempt + 1) if excess_db > 0 else 0.0
        if attempt < _MAX_REMASTERS and ceiling - lower_db >= _LOWEST_CEILING_DBTP:
            ceiling -= lower_db
            lufs = lufs if reached else min(lufs + missing_lu, 0.0)
            plan = plan_master(source, lufs, ceiling)
        else:
            gain *= 10 ** (-lower_db / 20)
    return decoded, plan


def _keeps_levels(plan: MasterPlan) -> bool:
    return not {"silent", "below_gate"}.isdisjoint(plan.report.flags)


def _finish_output(file: AtomicFile, decoded: _Decoded, output_format: OutputFormat) -> Output:
    if output_format.facts is not None:
        from services.audio.tags import write_tags

        facts = replace(output_format.facts, loudness=decoded.loudness)
        with file.explain_errors():
            write_tags(
                file.temporary,
                output_format.audio_format,
                facts,
                output_format.carried,
                new_levels=output_format.new_levels,
            )
    file.finish(decoded.frames)
    return Output(file=file, output_format=output_format, loudness=decoded.loudness)


def _write_wav_output(
    stack: ExitStack, path: str | os.PathLike[str], source: Source, output_format: OutputFormat
) -> Output:
    assert output_format.bit_depth is not None
    # The header needs the number of samples first, and the header of a source may be wrong.
    counting = _CountingSource(source)
    loudness = measure_source(counting)
    facts = None if output_format.facts is None else replace(output_format.facts, loudness=loudness)
    file = stack.enter_context(
        atomic_wav_stream(
            path,
            source.blocks(),
            source.channels,
            counting.frames,
            source.sample_rate,
            output_format.bit_depth,
            dither=output_format.dither,
            facts=facts,
            chunks=_build_carried_chunks(output_format, source, counting.frames, loudness),
        )
    )
    return Output(file=file, output_format=output_format, loudness=loudness)


def _build_carried_chunks(
    output_format: OutputFormat, source: Source, frames: int, loudness: Loudness
) -> bytes | None:
    """Return the chunks of a WAV file that keeps what others wrote into its source, or None."""
    carried, facts, depth = output_format.carried, output_format.facts, output_format.bit_depth
    if carried is None or facts is None or depth is None:
        return None
    from services.audio.carried_writing import build_carried_chunks

    return build_carried_chunks(
        carried,
        facts,
        WavFormat(source.channels, frames, source.sample_rate, BITS[depth], depth == "FLOAT"),
        dithered=output_format.dither and BITS[depth] < 32,
        loudness=loudness,
        new_levels=output_format.new_levels,
    )
