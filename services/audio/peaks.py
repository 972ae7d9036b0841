"""The outline of a waveform: the lowest and highest sample of each stretch, at several zooms.

The binary and the JSON form are version 2 of the data format of BBC's audiowaveform, which the
players peaks.js, waveform-data.js and wavesurfer.js read: doc/DataFormat.md in bbc/audiowaveform.
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
"""Samples per channel behind a pair of the finest level."""
ZOOM = 4
"""How many pairs of a level make one of the next."""
OVERVIEW_PAIRS = 1000
"""The coarsest level has at most so many."""

_VERSION = 2
_HEADER = struct.Struct("<iIiiIi")
_IS_8_BIT = 1
_DOT_COLUMNS, _DOT_ROWS = 2, 4
_DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
"""Bits of the dots in a Braille pattern, `[row, column]` (Unicode, block 2800)."""
_BRAILLE = 0x2800


@dataclass(frozen=True, slots=True, eq=False)
class PeakLevel:
    """One zoom: a pair for each `frames_per_pair` samples, the last for what is left."""

    sample_rate: int
    frames_per_pair: int
    pairs: Pairs
    """Lowest and highest sample, `[length, channels, 2]`; full scale is 128 or 32768.

    Rounded outwards, so no sample lies outside its pair, and held at the largest integer."""

    @property
    def length(self) -> int:
        """Pairs per channel."""
        return int(self.pairs.shape[0])

    @property
    def channels(self) -> int:
        """One or two."""
        return int(self.pairs.shape[1])

    @property
    def bits(self) -> int:
        """8 or 16."""
        return 8 * self.pairs.dtype.itemsize

    def to_dat(self) -> bytes:
        """The binary form, `.dat`."""
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
        """The JSON form."""
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
    """All zooms of one signal, the finest first."""

    levels: tuple[PeakLevel, ...]

    def at_least(self, pairs: int) -> PeakLevel:
        """The coarsest level that has that many pairs; the finest where none has."""
        fitting = [level for level in self.levels if level.length >= pairs]
        return fitting[-1] if fitting else self.levels[0]


def compute_peaks(signal: Any, sample_rate: int, *, bits: Bits = 8) -> Peaks:
    """The outline of audio in memory, each channel for itself.

    Args:
        signal: as for `as_audio`; what is above full scale is drawn at full scale.
        sample_rate: Hz.
        bits: of the numbers in the pairs.

    Raises:
        TypeError, ValueError: as `as_audio` and `check_sample_rate`.
    """
    source = ArraySource(as_audio(signal), check_sample_rate(sample_rate))
    return peaks_of_source(source, bits=bits)


def peaks_of_source(source: Source, *, bits: Bits = 8) -> Peaks:
    """As `compute_peaks`, for audio of any length: it is gone through once, block by block.

    Raises:
        ValueError: there are no samples.
        UnreadableAudioError: as `AudioFile.blocks`.
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
    pairs = _quantised(lows, highs, bits)
    levels = [PeakLevel(source.sample_rate, FINEST_FRAMES, pairs)]
    while levels[-1].length > OVERVIEW_PAIRS:
        levels.append(_coarser(levels[-1]))
    return Peaks(tuple(levels))


def waveform_text(peaks: Peaks, width: int = 72, height: int = 6) -> str:
    """A waveform for a terminal: `height` lines of `width` Braille characters, without colour.

    All channels in one outline, full scale at the first and the last line.

    Raises:
        ValueError: no width or no height.
    """
    if width < 1 or height < 1:
        raise ValueError(f"A waveform needs columns and lines, not {width} x {height}.")
    level = peaks.at_least(width * _DOT_COLUMNS)
    low, high = _envelope(level, width * _DOT_COLUMNS)
    rows = height * _DOT_ROWS
    top = np.clip(np.floor((1.0 - high) / 2.0 * rows), 0, rows - 1)
    bottom = np.clip(np.floor((1.0 - low) / 2.0 * rows), 0, rows - 1)
    place = np.arange(rows)[:, np.newaxis]
    lit = (place >= top) & (place <= bottom)
    cells = lit.reshape(height, _DOT_ROWS, width, _DOT_COLUMNS)
    codes = _BRAILLE + np.einsum("hrwc,rc->hw", cells, _DOTS)
    return "\n".join("".join(map(chr, line)) for line in codes)


def _envelope(level: PeakLevel, columns: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lowest and highest value in each of `columns` equal stretches, full scale at 1.0."""
    full_scale = 2.0 ** (level.bits - 1)
    low = level.pairs[:, :, 0].min(axis=1) / full_scale
    high = level.pairs[:, :, 1].max(axis=1) / full_scale
    starts = np.arange(columns) * level.length // columns
    return np.minimum.reduceat(low, starts), np.maximum.reduceat(high, starts)


def _quantised(lows: NDArray[np.float32], highs: NDArray[np.float32], bits: Bits) -> Pairs:
    full_scale = 2.0 ** (bits - 1)
    heard = np.clip(np.stack((lows, highs), axis=2), -1.0, 1.0) * full_scale
    np.floor(heard[:, :, 0], out=heard[:, :, 0])
    np.ceil(heard[:, :, 1], out=heard[:, :, 1])
    kept = np.clip(heard, -full_scale, full_scale - 1.0)
    return np.asarray(kept, np.int8) if bits == 8 else np.asarray(kept, np.int16)


def _coarser(level: PeakLevel) -> PeakLevel:
    starts = np.arange(0, level.length, ZOOM)
    low = np.minimum.reduceat(level.pairs[:, :, 0], starts, axis=0)
    high = np.maximum.reduceat(level.pairs[:, :, 1], starts, axis=0)
    return PeakLevel(level.sample_rate, level.frames_per_pair * ZOOM, np.stack((low, high), axis=2))
