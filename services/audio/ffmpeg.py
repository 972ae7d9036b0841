"""Reads audio files with FFmpeg's libraries, by PyAV, which the extra `formats` installs.

It is for the files that libsndfile cannot read, or not whole. Only `decoder.py` calls it, in a
process with limits. A file is never named to FFmpeg and cannot make it open another: it gets an
open file, formats that are one file each, and no protocols.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from services.audio.arrays import MAX_CHANNELS

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from numpy.typing import NDArray

INSTALL = (
    "FFmpeg may read it: `scripts/setup formats` or `pip install 'dgx-music[formats]'` installs it"
)

_DEMUXERS = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,dsf,dts,eac3,flac,flv,matroska,mov,mp3,mpc,mpc8,mpeg,"
    "mpegts,oga,ogg,oma,rm,shn,tak,tta,truehd,voc,w64,wav,wv,xwma"
)
_CONTAINERS = {"mov": "MP4"}
_ENCODINGS = {
    "mp1": "MPEG_LAYER_I",
    "mp2": "MPEG_LAYER_II",
    "mp3": "MPEG_LAYER_III",
    "mp3float": "MPEG_LAYER_III",
}
_LOSSLESS = {"alac", "ape", "flac", "mlp", "shorten", "tak", "truehd", "tta", "wavpack"}
_SAMPLES = {"u8": "PCM_U8", "s16": "PCM_16", "s32": "PCM_32", "flt": "FLOAT", "dbl": "DOUBLE"}
"""libsndfile's names for FFmpeg's sample formats."""

_PLAIN_PCM = re.compile(r"pcm_[suf]\d")

_LAYOUTS = {3: "3.0", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
"""By the number of channels, where the file names none: as in FLAC (RFC 9639, 9.1.3)."""


class FfmpegError(Exception):
    """FFmpeg cannot read the file; the message is the reason, without a full stop."""


class FfmpegReader:
    """A file that FFmpeg reads once, from its start to its end."""

    def __init__(self, path: bytes) -> None:
        """Open a file and decode its beginning.

        Raises:
            ImportError: PyAV is not installed.
            FfmpegError: FFmpeg does not read the file.
            OSError: the file cannot be opened.
        """
        import av

        self._damaged = self._frames = 0
        self._is_24_bit = True
        with ExitStack() as stack:
            # The name may be no text.
            file = stack.enter_context(open(path, "rb"))  # noqa: PTH123
            options = {"format_whitelist": _DEMUXERS, "protocol_whitelist": "none"}
            try:
                self._container = stack.enter_context(
                    av.open(file, "r", options=options, metadata_errors="replace")
                )
            except av.ArgumentError as error:
                raise FfmpegError("its format is none of those that are read here") from error
            except av.FFmpegError as error:
                raise FfmpegError(error.strerror) from error
            streams = self._container.streams
            if not streams.audio:
                raise FfmpegError("it has no audio")
            best = streams.best("audio")
            self._stream = best if isinstance(best, av.AudioStream) else streams.audio[0]
            self._stream.codec_context.thread_type = "NONE"
            self._decoded = self._decode()
            self._first = next(self._decoded)
            self._blocks = self._convert()
            self._rest: NDArray[np.float32] | None = None
            self._stack = stack.pop_all()

    @property
    def about(self) -> dict[str, Any]:
        """What is known so far; `frames` is 0 before `count_frames`."""
        container = self._container.format.name.split(",")[0]
        return {
            "sample_rate": self._first.sample_rate,
            "channels": min(self._first.layout.nb_channels, MAX_CHANNELS),
            "frames": self._frames,
            "container": _CONTAINERS.get(container, container.upper()),
            "encoding": self._name_encoding(),
            "is_mixed_down": self._first.layout.nb_channels > MAX_CHANNELS,
            "remarks": self._list_remarks(),
        }

    def count_frames(self, report: Callable[[], None], longest_seconds: float) -> None:
        """Decode the file for its length; nothing can be read after that.

        Args:
            report: called from time to time.
            longest_seconds: the rest of a longer file is not decoded.

        Raises:
            FfmpegError: the file is damaged, or its sample rate or its channels change.
        """
        for frame in chain([self._first], self._decoded):
            self._look_at_bits(frame)
            self._frames += frame.samples
            report()
            if self._frames > longest_seconds * self._first.sample_rate:
                return

    def read(self, frames: int) -> NDArray[np.float32]:
        """Return the next samples, `[frames, channels]`; fewer at the end only.

        Raises:
            FfmpegError: see `count_frames`.
        """
        parts, missing = [], frames
        while missing and (block := self._next_block()) is not None:
            parts.append(block[:missing])
            self._rest = block[missing:] if len(block) > missing else None
            missing -= len(parts[-1])
        return np.concatenate(parts) if parts else np.empty((0, MAX_CHANNELS), np.float32)

    def close(self) -> None:
        self._stack.close()

    def _next_block(self) -> NDArray[np.float32] | None:
        block, self._rest = self._rest, None
        return next(self._blocks, None) if block is None else block

    def _convert(self) -> Iterator[NDArray[np.float32]]:
        """Yield all samples, `[n, channels]`, mixed down to stereo where there are more."""
        import av

        layout = "stereo" if self._first.layout.nb_channels > MAX_CHANNELS else None
        resampler = av.AudioResampler(format="flt", layout=layout)
        for frame in chain([self._first], self._decoded):
            for converted in resampler.resample(frame):
                samples = converted.to_ndarray().astype(np.float32, copy=False)
                yield samples.reshape(-1, converted.layout.nb_channels)

    def _decode(self) -> Iterator[AudioFrame]:
        """Yield all frames: at least one, all with the same sample rate and channels."""
        first: tuple[int, str, str] | None = None
        intact = 0
        for decoded in self._decode_packets():
            frame = _name_channels(decoded)
            kind = (frame.sample_rate, frame.layout.name, frame.format.name)
            first = first or kind
            if kind != first:
                raise FfmpegError("its sample rate or its channels change midway")
            intact += 1
            yield frame
        if intact <= self._damaged:
            raise FfmpegError("most of it cannot be decoded" if intact else "it has no samples")

    def _decode_packets(self) -> Iterator[AudioFrame]:
        """Yield what can be decoded, and count what cannot, as FFmpeg's own programs go on."""
        import av

        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError as error:
                # Nobody knows how much there is behind this place.
                raise FfmpegError(f"it is read only in part: {error.strerror}") from error
            if packet is None:
                return
            try:
                yield from packet.decode()
            except av.FFmpegError:
                self._damaged += 1

    def _look_at_bits(self, frame: AudioFrame) -> None:
        # 24 bits are decoded to the upper ones of 32.
        if self._is_24_bit and frame.format.name in {"s32", "s32p"}:
            self._is_24_bit = not np.bitwise_or.reduce(frame.to_ndarray(), axis=None) & 0xFF

    def _name_encoding(self) -> str:
        codec = self._stream.codec_context.name
        if codec not in _LOSSLESS and not _PLAIN_PCM.match(codec):
            return _ENCODINGS.get(codec, codec.upper())
        name = self._first.format.name.removesuffix("p")
        if name == "s32" and self._is_24_bit:
            return "PCM_24"
        return _SAMPLES.get(name, codec.upper())

    def _list_remarks(self) -> list[str]:
        remarks = []
        layout = self._first.layout
        if layout.nb_channels > MAX_CHANNELS:
            is_without = any(channel.name.startswith("LFE") for channel in layout.channels)
            remarks.append(
                f"mixed down from {layout.name} to stereo by ITU-R BS.775"
                + (", without the low-frequency channel" if is_without else "")
            )
        if self._damaged:
            packets = (
                "1 packet that is" if self._damaged == 1 else f"{self._damaged} packets that are"
            )
            remarks.append(f"read without {packets} damaged")
        return remarks


def _name_channels(frame: AudioFrame) -> AudioFrame:
    """Return the frame with the usual layout if it has more than two channels and no layout."""
    import av

    channels = frame.layout.nb_channels
    if channels <= MAX_CHANNELS or all(c.name != "NONE" for c in frame.layout.channels):
        return frame
    if channels not in _LAYOUTS:
        raise FfmpegError(f"it has {channels} channels, and does not say for which speakers")
    named = av.AudioFrame.from_ndarray(
        frame.to_ndarray(), format=frame.format.name, layout=_LAYOUTS[channels]
    )
    named.sample_rate = frame.sample_rate
    return named
