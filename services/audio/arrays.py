"""The one door by which audio enters: it leaves as float32 `[channels, samples]`."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Audio = NDArray[np.float32]
"""`[channels, samples]`, contiguous, finite, full scale at 1.0; one or two channels."""

MAX_CHANNELS = 2
LOUDEST_SAMPLE = 1e5
"""100 dB over full scale: beyond is no audio, and encoders break on it."""
LOWEST_RATE_HZ = 8_000
HIGHEST_RATE_HZ = 192_000


def as_audio(signal: Any) -> Audio:
    """Turn a torch tensor or NumPy array into contiguous float32 `[channels, samples]`.

    A float32 array that already has that form is returned as it is, not copied, so treat the
    result as read-only. Integers are scaled to full scale at 1.0 (int32 keeps its upper 24 bits).

    Args:
        signal: `(samples,)` or `(channels, samples)`; a torch tensor on any device, of any float
            type, with or without a gradient, or a NumPy array of any float type or byte order,
            int16 or int32.

    Raises:
        TypeError: neither a tensor nor an array.
        ValueError: wrong dimensions, too many channels, empty, NaN or infinite, or a number type
            that has no agreed full scale.
    """
    array = _to_numpy(signal)
    if array.ndim not in {1, 2}:
        raise ValueError(
            f"Invalid audio dimensions: {array.ndim} (shape {array.shape}); "
            "expected (samples,) or (channels, samples)."
        )
    if array.size == 0:
        raise ValueError(f"Empty audio: shape {array.shape} holds no samples.")
    array = np.atleast_2d(array)
    _check_channels(array)
    audio = np.ascontiguousarray(_to_float32(array))
    if not is_audible(audio):
        raise ValueError(
            "The audio holds NaN or infinite samples, or some over 100 dB above full scale."
        )
    return audio


def is_audible(audio: Audio) -> bool:
    """Whether all samples are numbers that audio can have."""
    return bool(np.abs(audio).max() <= LOUDEST_SAMPLE)


def check_sample_rate(sample_rate: int) -> int:
    """Return the rate in Hz as a plain int.

    Raises:
        TypeError: not a whole number.
        ValueError: outside 8 to 192 kHz.
    """
    rate = operator.index(sample_rate)
    if not LOWEST_RATE_HZ <= rate <= HIGHEST_RATE_HZ:
        raise ValueError(
            f"Unsupported sample rate {rate} Hz; expected {LOWEST_RATE_HZ} to {HIGHEST_RATE_HZ} Hz."
        )
    return rate


def _to_numpy(signal: Any) -> NDArray[Any]:
    if isinstance(signal, np.ndarray):
        return signal
    if not (hasattr(signal, "detach") and hasattr(signal, "cpu")):
        raise TypeError(f"Expected a torch tensor or a NumPy array, got {type(signal).__name__}.")
    tensor = signal.detach().cpu()
    if tensor.dtype.is_floating_point:
        # bfloat16 has no NumPy counterpart; every float ends as float32 anyway.
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
