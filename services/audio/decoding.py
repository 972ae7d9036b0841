"""Read audio files in a process of their own, which a hostile file can hang or crash alone."""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from services.audio.decoder import SIZE

if TYPE_CHECKING:
    from services.audio.arrays import Audio

CPU_SECONDS = 10.0
"""Most CPU time to open a file, and to decode one block, which take milliseconds."""

WAIT_SECONDS = 60.0
"""Longest wait for the next block, of a busy machine or a file that is not on a disk."""

_PIPE_BYTES = 1 << 20
_SAMPLE_BYTES = 4
_LONGEST_OBJECT = 1 << 16
_LONGEST_ANSWER = 64
_CRASHED = "is damaged: it crashes its decoder, or keeps it busy without end"


class DecodingError(Exception):
    """The file cannot be decoded; the message is the rest of a sentence about it."""


@dataclass(slots=True)
class Decoding:
    """A file that is being decoded."""

    about: dict[str, Any]
    """sample_rate, channels, frames (0 where the blocks are read and only their end tells),
    container, encoding, is_mixed_down and remarks."""
    _stream: _Stream
    _longest: int
    """Frames of a block."""

    def blocks(self) -> Iterator[Audio]:
        """Yield the samples as `[frames, channels]`, to be read once.

        Raises:
            DecodingError: the file is damaged, or takes too much time or memory.
        """
        while True:
            frames = self._stream.read_size()
            if frames < 0:
                raise DecodingError(self._stream.read_object(-frames)["error"])
            if not frames:
                return
            if frames > self._longest:
                raise DecodingError(_CRASHED)
            channels = self.about["channels"]
            data = self._stream.read(frames * channels * _SAMPLE_BYTES)
            yield np.frombuffer(data, np.float32).reshape(frames, channels)


@contextmanager
def decode(path: Path, frames: int, longest_seconds: float | None = None) -> Iterator[Decoding]:
    """Decode a file in a process, which is killed at the end of the block.

    Args:
        path: of the file, which may be hostile.
        frames: samples per channel of a block; 0 reads the header only.
        longest_seconds: where the length can only be counted, counting stops past it.

    Raises:
        DecodingError: the file is not audio, or takes too much time or memory.
        OSError: the machine starts no process, or has too many files open.
    """
    output, fork = _decoder.start(path, frames, longest_seconds)
    try:
        stream = _Stream(output)
        while not (about := stream.read_object(-stream.read_size())):
            pass
        if "error" in about:
            raise DecodingError(about["error"])
        yield Decoding(about, stream, frames)
    finally:
        os.close(output)
        _decoder.stop(fork)


@dataclass(frozen=True, slots=True)
class Fork:
    """A process that decodes a file."""

    process: int
    channel: socket.socket
    """To the decoder that forked it."""


@dataclass(slots=True)
class _Stream:
    """The end of the pipe at which blocks arrive."""

    _descriptor: int
    _poll: select.poll = field(default_factory=select.poll)

    def __post_init__(self) -> None:
        self._poll.register(self._descriptor, select.POLLIN)

    def read_size(self) -> int:
        return int(SIZE.unpack(self.read(SIZE.size))[0])

    def read_object(self, length: int) -> dict[str, Any]:
        if not 0 < length <= _LONGEST_OBJECT:
            raise DecodingError(_CRASHED)
        found: dict[str, Any] = json.loads(self.read(length))
        return found

    def read(self, length: int) -> bytearray:
        data = bytearray(length)
        view, filled = memoryview(data), 0
        end = time.monotonic() + WAIT_SECONDS
        while filled < length:
            if not self._poll.poll(max(0.0, end - time.monotonic()) * 1000):
                raise DecodingError(f"cannot be read: nothing came of it for {WAIT_SECONDS:g} s")
            count = os.readv(self._descriptor, [view[filled:]])
            if not count:
                raise DecodingError(_CRASHED)
            filled += count
        return data


class _Decoder:
    """The process that forks for each file; started at the first, again if it ended."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start with nothing, as in a fork of this process, whose parent has the decoder."""
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None

    def start(
        self, path: Path, frames: int, longest_seconds: float | None = None
    ) -> tuple[int, Fork]:
        """Return the pipe that a file's blocks come from, and the fork that writes them."""
        name = os.fsencode(path.absolute()).hex()
        request = {
            "path": name,
            "frames": frames,
            "cpu_seconds": CPU_SECONDS,
            "longest_seconds": longest_seconds,
        }
        with self._lock:
            try:
                return self._ask(request)
            except (ConnectionError, TimeoutError):
                # It ended: killed by the system, or by somebody.
                return self._ask(request)

    def stop(self, fork: Fork) -> None:
        """Kill a fork, if it still runs."""
        with self._lock:
            if self._channel is fork.channel:
                with suppress(OSError):
                    self._channel.send(json.dumps({"kill": fork.process}).encode())

    def end(self) -> None:
        """Kill the process and its forks."""
        if self._channel is not None:
            self._channel.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._channel = None

    def _ask(self, request: dict[str, Any]) -> tuple[int, Fork]:
        output, theirs = os.pipe()
        with ExitStack() as undo:
            # An answer that comes later would be taken for that to the next request.
            undo.callback(self.end)
            undo.callback(os.close, output)
            try:
                with suppress(OSError):
                    fcntl.fcntl(output, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
                channel = self._channel or self._start_process()
                socket.send_fds(channel, [json.dumps(request).encode()], [theirs])
                answer = channel.recv(_LONGEST_ANSWER)
            finally:
                os.close(theirs)
            if not answer:
                raise ConnectionResetError("the decoder has ended")
            undo.pop_all()
        return output, Fork(int(answer), channel)

    def _start_process(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._channel = ours
            ours.settimeout(WAIT_SECONDS)
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter and a module of ours
                # -P: whatever lies in the current folder is not imported.
                [sys.executable, "-P", "-m", "services.audio.decoder", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                # Signals of the terminal are for this process, at whose end it ends.
                start_new_session=True,
            )
        return ours


_decoder = _Decoder()
atexit.register(_decoder.end)
os.register_at_fork(after_in_child=_decoder.forget)
