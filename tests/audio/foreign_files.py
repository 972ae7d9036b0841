"""Audio files as other programs write them, made by FFmpeg's libraries or cut by hand."""

from __future__ import annotations

import io
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile

RATE = 44_100
FRAMES_OF_MP3 = 1152


class Pipe(io.RawIOBase):
    """A file that is written from its start to its end, as a pipe is."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def write(self, data) -> int:
        self.data += data
        return len(data)


def tone(seconds: float, channels: int = 2, rate: int = RATE, level: float = 0.3) -> np.ndarray:
    """A sine of another pitch on each channel, `[channels, samples]`."""
    times = np.arange(round(seconds * rate)) / rate
    pitches = 220 * 1.2 ** np.arange(channels)[:, None]
    return (level * np.sin(2 * np.pi * pitches * times)).astype(np.float32)


def noise(seconds: float, level: float = 0.3) -> np.ndarray:
    samples = np.random.default_rng(1).uniform(-level, level, (2, round(seconds * RATE)))
    return samples.astype(np.float32)


def encode(
    audio: np.ndarray,
    codec: str,
    container: str,
    *,
    rate: int = RATE,
    layout: str = "stereo",
    sample_format: str = "fltp",
    piped: bool = False,
    codec_options: dict[str, str] | None = None,
    **options: str,
) -> tuple[bytes, int]:
    """Encode `[channels, samples]` and return the file and its number of packets."""
    out = Pipe() if piped else io.BytesIO()
    packets = 0
    with av.open(out, "w", format=container, options=options) as file:
        stream = file.add_stream(codec, rate=rate, layout=layout, options=codec_options)
        stream.format = sample_format
        resampler = av.AudioResampler(format=sample_format, layout=layout, rate=rate)
        size = stream.codec_context.frame_size or 4096
        for start in range(0, audio.shape[1], size):
            piece = np.ascontiguousarray(audio[:, start : start + size])
            frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            for converted in resampler.resample(frame):
                for packet in stream.encode(converted):
                    file.mux(packet)
                    packets += 1
        for packet in stream.encode(None):
            file.mux(packet)
            packets += 1
    return bytes(out.data if isinstance(out, Pipe) else out.getvalue()), packets


def encode_mp3(audio: np.ndarray, *, xing: bool, rate: int = RATE) -> tuple[bytes, int]:
    """Encode with a variable bit rate and no tags; return the file and its number of frames."""
    return encode(
        audio, "libmp3lame", "mp3", rate=rate, layout="stereo" if len(audio) == 2 else "mono",
        codec_options={"flags": "+qscale", "global_quality": str(4 * 118)},
        write_xing=str(int(xing)), id3v2_version="0", write_id3v1="0",
    )  # fmt: skip


def write_soundfile(audio: np.ndarray, **kind: str) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, audio.T, RATE, **kind)
    return out.getvalue()


def wav(*chunks: tuple[bytes, bytes, int | None], pad: bool = True) -> bytes:
    """A WAV file of these chunks: name, content, and a size that is not the content's."""
    body = b"WAVE"
    for name, content, size in chunks:
        body += name + struct.pack("<I", len(content) if size is None else size) + content
        body += b"\0" if pad and len(content) % 2 else b""
    return b"RIFF" + struct.pack("<I", len(body)) + body


def pcm(audio: np.ndarray) -> bytes:
    return np.round(audio.T * 32767).astype("<i2").tobytes()


def fmt(channels: int, rate: int = RATE) -> tuple[bytes, bytes, None]:
    step = 2 * channels
    return b"fmt ", struct.pack("<HHIIHH", 1, channels, rate, rate * step, step, 16), None


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
