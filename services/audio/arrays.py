"""The checks that all audio passes on entry; the result is float32 `[channels, samples]`."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Audio = NDArray[np.float32]
"""`[channels, samples]`, C-contiguous and finite, full scale at 1.0, one or two channels."""

MAX_CHANNELS = 2
LOUDEST_SAMPLE = 1e5
"""100 dB above full scale. Encoders fail on higher values."""
LOWEST_RATE_HZ = 8_000
LOWEST_MEASURED_RATE_HZ = 1_000
"""Audio at less than `LOWEST_RATE_HZ` can be measured, but not written."""
HIGHEST_RATE_HZ = 192_000


def as_audio(signal: Any) -> Audio:
    """Convert a torch tensor or NumPy array to contiguous float32 `[channels, samples]`.

    An array that already has this form is returned without a copy: do not write to the result.
    Integers are scaled to full scale at 1.0 (int32 keeps its upper 24 bits).

    Args:
        signal: `(samples,)` or `(channels, samples)`; a torch tensor on any device, of any float
            type, with or without a gradient, or a NumPy array of any float type or byte order,
            int16 or int32.

    Raises:
        TypeError: neither a tensor nor an array.
        ValueError: wrong dimensions, too many channels, no samples, samples that are NaN, infinite
            or over `LOUDEST_SAMPLE`, or a number type without an agreed full scale.
    """
    array = _to_numpy(signal)
    if array.ndim not in {1, 2}:
        raise ValueError(
            f"Invalid audio dimensions: {array.ndim} (shape {array.shape}); "
            "expected (samples,) or (channels, samples)."
        )
    if array.size == 0:
        raise ValueError(f"Empty audio: shape {array.shape} has no samples.")
    array = np.atleast_2d(array)
    _check_channels(array)
    audio = np.ascontiguousarray(_to_float32(array))
    if not has_valid_samples(audio):
        raise ValueError(
            "The audio has NaN or infinite samples, or samples more than 100 dB above full scale."
        )
    return audio


def has_valid_samples(audio: Audio) -> bool:
    # NaN compares as False.
    return bool(np.abs(audio).max() <= LOUDEST_SAMPLE)


def check_sample_rate(sample_rate: int, lowest: int = LOWEST_RATE_HZ) -> int:
    """Return the rate in Hz as a plain int.

    Raises:
        TypeError: not an integer.
        ValueError: outside `lowest` to 192000 Hz.
    """
    rate = operator.index(sample_rate)
    if not lowest <= rate <= HIGHEST_RATE_HZ:
        raise ValueError(
            f"Unsupported sample rate {rate} Hz; expected {lowest} to {HIGHEST_RATE_HZ} Hz."
        )
    return rate


def check_measured_rate(sample_rate: int) -> int:
    """Return the rate of audio to measure like `check_sample_rate`: 1000 to 192000 Hz."""
    return check_sample_rate(sample_rate, LOWEST_MEASURED_RATE_HZ)


def _to_numpy(signal: Any) -> NDArray[Any]:
    if isinstance(signal, np.ndarray):
        return signal
    if not (hasattr(signal, "detach") and hasattr(signal, "cpu")):
        raise TypeError(f"Expected a torch tensor or a NumPy array, got {type(signal).__name__}.")
    tensor = signal.detach().cpu()
    if tensor.dtype.is_floating_point:
        # NumPy has no bfloat16, and every float type becomes float32 in the end.
        tensor = tensor.float()
    return np.asarray(tensor.numpy())


def _check_channels(array: NDArray[Any]) -> None:
    channels, samples = array.shape
    if channels <= MAX_CHANNELS:
        return
    hint = "; it looks like (samples, channels): transpose it" if samples <= MAX_CHANNELS else ""
    raise ValueError(
        f"Expected max {MAX_CHANNELS} channels in (channels, samples), got {channels}{hint}."
    )


def _to_float32(array: NDArray[Any]) -> Audio:
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            return array.astype(np.float32, copy=False)
    if array.dtype.kind == "i" and array.dtype.itemsize in {2, 4}:
        full_scale = 2.0 ** (8 * array.dtype.itemsize - 1)
        return (array / full_scale).astype(np.float32)
    raise ValueError(
        f"Unsupported sample type {array.dtype}; expected floats, int16 or int32 samples."
    )
