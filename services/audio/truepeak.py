"""True peak: the level between the samples, by two interpolators (ITU-R BS.1770-5, Annex 2).

The meter reads a steep 4x interpolator (soxr HQ), within 0.12 dB of the analogue signal. Many
meters in the field, libebur128 among them, use a short filter instead, which reads up to 1 dB
lower on extreme material and 0.3 dB higher on clicks. A ceiling has to hold on both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import soxr  # type: ignore[import-untyped]  # ships neither stubs nor py.typed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from services.audio.arrays import Audio

_CHUNK_SAMPLES = 1 << 14
_SHORT_FILTER_TAPS = 49


def oversampling(sample_rate: int) -> int:
    """How often a sample is interpolated: 4x below 96 kHz, 2x below 192 kHz, then not at all."""
    if sample_rate < 96_000:
        return 4
    return 2 if sample_rate < 192_000 else 1


def true_peak(audio: Audio, sample_rate: int) -> float:
    """The highest absolute value of the interpolated signal over all channels, linear."""
    return float(block_peaks(audio, sample_rate, _CHUNK_SAMPLES).max())


def block_peaks(audio: Audio, sample_rate: int, block: int) -> NDArray[np.float32]:
    """The true peak of each block of `block` samples, over all channels, linear.

    The signal is interpolated in chunks, so memory does not grow with its length.

    Returns:
        `[ceil(samples / block)]`; never less than the sample peaks.
    """
    peaks = _block_maxima(np.abs(audio).max(axis=0), block)
    factor = oversampling(sample_rate)
    if factor > 1:
        for channel in audio:
            found = _interpolated_maxima(channel, sample_rate, factor, block)[: peaks.size]
            np.maximum(peaks[: found.size], found, out=peaks[: found.size])
    return peaks


def short_filter_peak(audio: Audio, sample_rate: int) -> float:
    """The true peak as a 49-tap Hann-windowed sinc reads it (libebur128's filter), linear."""
    return float(short_filter_block_peaks(audio, sample_rate, _CHUNK_SAMPLES).max())


def short_filter_block_peaks(audio: Audio, sample_rate: int, block: int) -> NDArray[np.float32]:
    """As `block_peaks`, by the short filter; the edges hold what rings beyond them."""
    envelope = np.abs(audio).max(axis=0)
    factor = oversampling(sample_rate)
    if factor > 1:
        for channel in audio:
            between = _short_filtered(channel, factor)
            delay = (between.size - channel.size) // 2
            after = delay + channel.size - 1
            between[delay] = between[: delay + 1].max()
            between[after] = between[after:].max()
            np.maximum(envelope, between[delay : after + 1], out=envelope)
    return _block_maxima(envelope, block)


def _interpolated_maxima(
    channel: NDArray[np.float32], sample_rate: int, factor: int, block: int
) -> NDArray[np.float32]:
    stream = soxr.ResampleStream(
        sample_rate, sample_rate * factor, 1, dtype="float32", quality="HQ"
    )
    width = block * factor
    rest = np.empty(0, np.float32)
    maxima = []
    for start in range(0, channel.size, _CHUNK_SAMPLES):
        last = start + _CHUNK_SAMPLES >= channel.size
        fine = stream.resample_chunk(channel[start : start + _CHUNK_SAMPLES], last=last)
        fine = np.concatenate((rest, np.abs(fine)))
        whole = fine.size // width * width
        maxima.append(fine[:whole].reshape(-1, width).max(axis=1))
        rest = fine[whole:]
    if rest.size:
        maxima.append(rest.max(keepdims=True))
    return np.concatenate(maxima)


def _block_maxima(values: NDArray[np.float32], block: int) -> NDArray[np.float32]:
    return np.maximum.reduceat(values, np.arange(0, values.size, block))


def _short_filtered(channel: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """The highest interpolated value after each sample, from the first tap to the last.

    Products and sums in a fixed order give the same bits whatever the number of threads.
    """
    tap = np.arange(_SHORT_FILTER_TAPS) - (_SHORT_FILTER_TAPS - 1) / 2
    response = (np.sinc(tap / factor) * np.hanning(_SHORT_FILTER_TAPS)).astype(np.float32)
    # Phase 0 meets the samples themselves.
    phases = [response[phase::factor] for phase in range(1, factor)]
    taps = phases[0].size
    padded = np.pad(channel, taps - 1)
    highest = np.zeros(channel.size + taps - 1, np.float32)
    for start in range(0, highest.size, _CHUNK_SAMPLES):
        part = highest[start : start + _CHUNK_SAMPLES]
        stretch = padded[start : start + part.size + taps - 1]
        product = np.empty_like(part)
        for weights in phases:
            total = np.zeros_like(part)
            for place, weight in enumerate(weights[::-1]):
                np.multiply(stretch[place : place + part.size], weight, out=product)
                total += product
            np.maximum(part, np.abs(total, out=total), out=part)
    return highest
