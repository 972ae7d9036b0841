"""A look-ahead limiter that keeps true peaks, not only samples, under a ceiling.

The gain is computed about 3000 times per second at any sample rate. It falls over the 10 ms before
a peak, holds for 5 ms and recovers with a time constant of 60 ms. Holding and smoothing span 10 ms,
so that the gain does not follow the half-waves of a bass note down to 50 Hz, which would distort.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from services.audio.arrays import as_audio, check_sample_rate
from services.audio.sources import ArraySource, join_blocks
from services.audio.truepeak import block_peaks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from services.audio.arrays import Audio

    Gains = NDArray[np.float64]

_CONTROL_RATE_HZ = 3000
_REACH_SECONDS = 0.005
_RELEASE_SECONDS = 0.060
_LOOP_LEAD_SECONDS = 1.0
"""Time in which a reduction of 12 dB recovers to less than a millionth of a dB."""
_ROW = 1024


def control_block(sample_rate: int) -> int:
    """Return the number of samples per gain value; the gain between two values is linear."""
    return max(1, round(sample_rate / _CONTROL_RATE_HZ))


def limit(signal: Any, sample_rate: int, ceiling_dbtp: float) -> tuple[Audio, float]:
    """Limit the true peak (4x oversampled) to a ceiling, within a few hundredths of a dB.

    The moving gain shifts the peaks between the samples slightly. `plan_master` measures the result
    and corrects for that.

    Args:
        signal: see `as_audio`.
        sample_rate: 8000 to 192000 Hz.
        ceiling_dbtp: highest true peak.

    Returns:
        The audio (the same object if no peak exceeds the ceiling) and the largest gain reduction in
        dB (0 or positive).

    Raises:
        TypeError, ValueError: see `as_audio` and `check_sample_rate`.
    """
    audio, sample_rate = as_audio(signal), check_sample_rate(sample_rate)
    block = control_block(sample_rate)
    peaks = block_peaks(audio, sample_rate, block)
    gains = compute_gain_curve(peaks, 10 ** (ceiling_dbtp / 20), control_step(sample_rate))
    if gains is None:
        return audio, 0.0
    source = ArraySource(audio, sample_rate)
    limited = join_blocks(apply_gains(source.blocks(), gains, block), audio.shape)
    return limited, reduction_db(gains)


def control_step(sample_rate: int) -> float:
    """Return the seconds between two values of the gain."""
    return control_block(sample_rate) / sample_rate


def compute_gain_curve(
    peaks: NDArray[np.float32], ceiling: float, step_seconds: float, *, loop: bool = False
) -> Gains | None:
    """Return the gain at the middle of each control block that keeps `peaks` under `ceiling`.

    Args:
        peaks: true peak of each control block, linear, `[blocks]`.
        ceiling: linear.
        step_seconds: length of a control block.
        loop: the first block follows the last.

    Returns:
        Linear gains `[blocks]`, at most 1, or None if no peak exceeds the ceiling.
    """
    if float(peaks.max()) <= ceiling:
        return None
    if loop:
        return _compute_loop_curve(peaks, ceiling, step_seconds)
    needed = 20 * np.log10(ceiling / np.maximum(peaks, ceiling, dtype=np.float64))
    released = _release(needed, step_seconds)
    reach = max(1, round(_REACH_SECONDS / step_seconds))
    # The minimum spans one block more on each side than the smoothing, because the gain of a sample
    # is interpolated between two blocks and a peak may lie between them.
    held = _sliding_minimum(released, reach + 1)
    window = np.hanning(2 * reach + 3)[1:-1]
    smooth = np.convolve(np.pad(held, reach, mode="edge"), window / window.sum(), mode="valid")
    return np.asarray(10 ** (smooth / 20))


def _compute_loop_curve(peaks: NDArray[np.float32], ceiling: float, step_seconds: float) -> Gains:
    """Return the gains from the middle of enough repetitions for them to settle."""
    ahead = max(2, round(4 * _REACH_SECONDS / step_seconds))
    behind = ahead + round(_LOOP_LEAD_SECONDS / step_seconds)
    around = peaks[np.arange(-behind, peaks.size + ahead) % peaks.size]
    # The blocks of a loop are stretched by less than one (`spread_gains`), hence the neighbours.
    nearest = np.maximum(around, np.maximum(np.roll(around, 1), np.roll(around, -1)))
    gains = compute_gain_curve(nearest, ceiling, step_seconds)
    assert gains is not None
    return gains[behind : behind + peaks.size]


def spread_gains(gains: Gains, samples: int) -> NDArray[np.float32]:
    """Return the gain at each sample of a loop, linear between the gains and over the seam.

    The gains are spread over the loop evenly, so that the last block, which may be shorter, does
    not break the curve where the loop starts again.
    """
    middles = (np.arange(-1, gains.size + 1) + 0.5) * (samples / gains.size)
    around = np.concatenate((gains[-1:], gains, gains[:1]))
    curve = np.interp(np.arange(samples) + 0.5, middles, around)
    return np.asarray(curve, dtype=np.float32)


def reduction_db(gains: Gains) -> float:
    return float(-20 * np.log10(gains.min()))


def apply_gains(blocks: Iterable[Audio], gains: Gains, block: int) -> Iterator[Audio]:
    """Multiply by a gain curve, interpolated linearly between the middles of its blocks.

    Args:
        blocks: the signal from its first sample, in pieces of any size.
        gains: linear, one per `block` samples of the signal.
        block: samples per gain.
    """
    # The first and last values are repeated beyond the ends. The middle of an even block lies
    # between two samples.
    offset = np.float32(0.0 if block % 2 else 0.5)
    steady = np.concatenate((gains[:1], gains, gains[-1:])).astype(np.float32)
    along = (np.arange(block, dtype=np.float32) + offset) / np.float32(block)
    start = (block + 1) // 2
    for audio in blocks:
        stop = start + audio.shape[1]
        first = start // block
        around = steady[first : -(-stop // block) + 1]
        lines = around[:-1, None] + np.diff(around)[:, None] * along
        yield audio * lines.ravel()[start - first * block : stop - first * block]
        start = stop


def _release(needed: Gains, step_seconds: float) -> Gains:
    """Let each reduction (dB, negative) decay: `out[i] = min(needed[i], a out[i-1])`.

    Unrolled, `out[i]` is the minimum of `needed[j] a^(i-j)` over j <= i, which is a running minimum
    after division by `a^i`. Rows are short enough for the powers to stay in range.
    """
    rows = -(-needed.size // _ROW)
    padded = np.zeros(rows * _ROW)
    padded[: needed.size] = needed
    decay = np.exp(-step_seconds / _RELEASE_SECONDS * np.arange(_ROW + 1))
    inside = np.minimum.accumulate(padded.reshape(rows, _ROW) / decay[:-1], axis=1)
    carried = 0.0
    starts = np.empty(rows)
    for row, last in enumerate(inside[:, -1].tolist()):
        starts[row] = carried
        carried = min(last, carried) * float(decay[_ROW])
    released = np.minimum(inside, starts[:, None]) * decay[:-1]
    return np.asarray(released.ravel()[: needed.size])


def _sliding_minimum(values: Gains, reach: int) -> Gains:
    """Return the minimum over `reach` values on either side, with 0 beyond the ends."""
    lowest = np.pad(values, reach)
    width, span = 2 * reach + 1, 1
    while span * 2 <= width:
        lowest = np.minimum(lowest[:-span], lowest[span:])
        span *= 2
    rest = width - span
    return np.minimum(lowest[: lowest.size - rest], lowest[rest:])
