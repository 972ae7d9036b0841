"""Waveform peaks: the lowest and highest sample of each stretch, at several zoom levels.

The binary and JSON forms are version 2 of the data format of BBC's audiowaveform, which peaks.js,
waveform-data.js and wavesurfer.js read: doc/DataFormat.md in bbc/audiowaveform.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from services.audio.arrays import as_audio, check_sample_rate
from services.audio.sources import ArraySource, BlockReducer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from services.audio.sources import Source

    Pairs = NDArray[np.int8] | NDArray[np.int16]

Bits = Literal[8, 16]

FINEST_FRAMES = 256
"""Samples per pair of the finest level."""
ZOOM = 4
"""Pairs of a level per pair of the next coarser one."""
OVERVIEW_PAIRS = 1000
"""The largest number of pairs in the coarsest level."""

_VERSION = 2
_HEADER = struct.Struct("<iIiiIi")
_IS_8_BIT = 1
_DOT_COLUMNS, _DOT_ROWS = 2, 4
_DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
"""Bits of the dots in a Braille character, `[row, column]` (Unicode block U+2800)."""
_BRAILLE = 0x2800


@dataclass(frozen=True, slots=True, eq=False)
class PeakLevel:
    """One zoom level: a pair per `frames_per_pair` samples; the last pair may cover fewer."""

    sample_rate: int
    frames_per_pair: int
    pairs: Pairs
    """Lowest and highest sample, `[length, channels, 2]`; full scale is 128 or 32768.

    Rounded outwards, so that each sample lies within its pair, and clipped at full scale."""

    @property
    def length(self) -> int:
        return int(self.pairs.shape[0])

    @property
    def channels(self) -> int:
        return int(self.pairs.shape[1])

    @property
    def bits(self) -> int:
        return 8 * self.pairs.dtype.itemsize

    def to_dat(self) -> bytes:
        """Return the binary form of audiowaveform, `.dat`."""
        header = _HEADER.pack(
            _VERSION,
            _IS_8_BIT if self.bits == 8 else 0,
            self.sample_rate,
            self.frames_per_pair,
            self.length,
            self.channels,
        )
        return header + self.pairs.astype(self.pairs.dtype.newbyteorder("<")).tobytes()

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form of audiowaveform."""
        return {
            "version": _VERSION,
            "channels": self.channels,
            "sample_rate": self.sample_rate,
            "samples_per_pixel": self.frames_per_pair,
            "bits": self.bits,
            "length": self.length,
            "data": self.pairs.ravel().tolist(),
        }


@dataclass(frozen=True, slots=True, eq=False)
class Peaks:
    levels: tuple[PeakLevel, ...]
    """The zoom levels, the finest first."""

    def at_least(self, pairs: int) -> PeakLevel:
        """Return the coarsest level with at least this many pairs, or else the finest."""
        fitting = [level for level in self.levels if level.length >= pairs]
        return fitting[-1] if fitting else self.levels[0]


def compute_peaks(signal: Any, sample_rate: int, *, bits: Bits = 8) -> Peaks:
    """Compute the peaks of each channel of a signal.

    Args:
        signal: see `as_audio`; clipped at full scale.
        sample_rate: 8000 to 192000 Hz.
        bits: of the numbers in the pairs.

    Raises:
        TypeError, ValueError: see `as_audio` and `check_sample_rate`.
    """
    source = ArraySource(as_audio(signal), check_sample_rate(sample_rate))
    return compute_source_peaks(source, bits=bits)


def compute_source_peaks(source: Source, *, bits: Bits = 8) -> Peaks:
    """Compute the peaks of audio of any length in one pass, like `compute_peaks`.

    Raises:
        ValueError: the source has no samples.
        UnreadableAudioError: see `AudioFile.blocks`.
    """
    lowest = [BlockReducer(np.minimum, FINEST_FRAMES) for _ in range(source.channels)]
    highest = [BlockReducer(np.maximum, FINEST_FRAMES) for _ in range(source.channels)]
    for block in source.blocks():
        for channel, low, high in zip(block, lowest, highest, strict=True):
            low.push(channel)
            high.push(channel)
    lows = np.stack([reducer.result() for reducer in lowest], axis=1)
    highs = np.stack([reducer.result() for reducer in highest], axis=1)
    if not lows.size:
        raise ValueError("There are no samples to draw.")
    pairs = _quantise(lows, highs, bits)
    levels = [PeakLevel(source.sample_rate, FINEST_FRAMES, pairs)]
    while levels[-1].length > OVERVIEW_PAIRS:
        levels.append(_coarsen(levels[-1]))
    return Peaks(tuple(levels))


def draw_waveform(peaks: Peaks, width: int = 72, height: int = 6) -> str:
    """Draw a waveform as `height` lines of `width` Braille characters, without colour.

    The channels share one outline. Full scale is at the first and the last line.

    Raises:
        ValueError: the width or the height is less than 1.
    """
    if width < 1 or height < 1:
        raise ValueError(f"A waveform needs at least 1 column and 1 line, not {width} x {height}.")
    level = peaks.at_least(width * _DOT_COLUMNS)
    low, high = _compute_envelope(level, width * _DOT_COLUMNS)
    rows = height * _DOT_ROWS
    top = np.clip(np.floor((1.0 - high) / 2.0 * rows), 0, rows - 1)
    bottom = np.clip(np.floor((1.0 - low) / 2.0 * rows), 0, rows - 1)
    place = np.arange(rows)[:, np.newaxis]
    lit = (place >= top) & (place <= bottom)
    cells = lit.reshape(height, _DOT_ROWS, width, _DOT_COLUMNS)
    codes = _BRAILLE + np.einsum("hrwc,rc->hw", cells, _DOTS)
    return "\n".join("".join(map(chr, line)) for line in codes)


def _compute_envelope(
    level: PeakLevel, columns: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the lowest and highest value of each of `columns` equal stretches, `[columns]`."""
    full_scale = 2.0 ** (level.bits - 1)
    low = level.pairs[:, :, 0].min(axis=1) / full_scale
    high = level.pairs[:, :, 1].max(axis=1) / full_scale
    starts = np.arange(columns) * level.length // columns
    return np.minimum.reduceat(low, starts), np.maximum.reduceat(high, starts)


def _quantise(lows: NDArray[np.float32], highs: NDArray[np.float32], bits: Bits) -> Pairs:
    full_scale = 2.0 ** (bits - 1)
    scaled = np.clip(np.stack((lows, highs), axis=2), -1.0, 1.0) * full_scale
    np.floor(scaled[:, :, 0], out=scaled[:, :, 0])
    np.ceil(scaled[:, :, 1], out=scaled[:, :, 1])
    kept = np.clip(scaled, -full_scale, full_scale - 1.0)
    return np.asarray(kept, np.int8) if bits == 8 else np.asarray(kept, np.int16)


def _coarsen(level: PeakLevel) -> PeakLevel:
    starts = np.arange(0, level.length, ZOOM)
    low = np.minimum.reduceat(level.pairs[:, :, 0], starts, axis=0)
    high = np.maximum.reduceat(level.pairs[:, :, 1], starts, axis=0)
    return PeakLevel(level.sample_rate, level.frames_per_pair * ZOOM, np.stack((low, high), axis=2))
