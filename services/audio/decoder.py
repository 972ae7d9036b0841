"""The process that decodes audio files: a bug of libsndfile or FFmpeg ends or delays nothing else.

It is started by decoding.py as `python -m services.audio.decoder SOCKET`, loads each library once,
FFmpeg when the first file needs it, and forks for each file. A fork has limits on CPU time, memory
and files, and writes to a pipe what it reads: messages that begin with a number in 4 bytes. A
negative one is the length of a JSON object, first of all about the file, or else an error; empty
ones before it say that the file is still being counted. Another is the number of frames of a block,
0 at the end, and then come its samples: float32, frame by frame. It ends with the program that
started it, and the forks end with it.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any, BinaryIO

from services.audio.ffmpeg import INSTALL, FfmpegError, FfmpegReader
from services.audio.libsndfile import LibsndfileReader, UnsuitableError

MEMORY_BYTES = 2 << 30

LONGEST_CPU_SECONDS = 900
"""Most CPU time to decode a whole file."""

COUNTING_SECONDS = 1.0
"""Pause between two signs that a file is still being counted: objects without fields."""

COLLECT_SECONDS = 0.5
"""Pause between two looks for forks that have ended."""

LONGEST_REQUEST = 1 << 16
_PR_SET_PDEATHSIG = 1

SIZE = struct.Struct("<i")
"""Of a message: frames of a block, or minus the length of an object."""


def main() -> None:
    """Serve requests until the other end of the socket is closed."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    import numpy as np  # noqa: F401  (loaded once, for all forks)
    import soundfile  # type: ignore[import-untyped]  # noqa: F401

    forks: set[int] = set()
    # A fork writes to this pipe if it had to load FFmpeg, so that later ones need not.
    wishes, wish = os.pipe()
    while True:
        while channel not in (ready := _wait(channel, wishes, forks)):
            if wishes in ready:
                os.read(wishes, LONGEST_REQUEST)
                with suppress(ImportError):
                    import av  # noqa: F401
            forks -= _collect(forks)
        data, descriptors, _, _ = socket.recv_fds(channel, LONGEST_REQUEST, 1)
        if not data:
            for fork in forks:
                os.kill(fork, signal.SIGKILL)
            return
        request = json.loads(data)
        # Only this process collects the forks, so that until then no other has the same number.
        forks -= _collect(forks)
        if "kill" in request:
            if request["kill"] in forks:
                os.kill(request["kill"], signal.SIGKILL)
            continue
        (output,) = descriptors
        fork = os.fork()
        if not fork:
            channel.close()
            _serve_fork(request, output, wish)
        forks.add(fork)
        os.close(output)
        with suppress(BrokenPipeError):
            channel.send(str(fork).encode())


def _wait(channel: socket.socket, wishes: int, forks: set[int]) -> list[Any]:
    """Return which of both can be read, if any before it is time to look for forks again."""
    ends: list[Any] = [channel, wishes]
    return select.select(ends, [], [], COLLECT_SECONDS if forks else None)[0]


def _collect(forks: set[int]) -> set[int]:
    """Collect the forks that have ended, and return them."""
    return {fork for fork in forks if os.waitpid(fork, os.WNOHANG)[0]}


def _serve_fork(request: dict[str, Any], output: int, wish: int) -> None:
    try:
        path, seconds = bytes.fromhex(request["path"]), float(request["cpu_seconds"])
        with os.fdopen(output, "wb") as out:
            _limit(path, seconds)
            longest = request["longest_seconds"] or math.inf
            frames = int(request["frames"])
            _decode(path, frames, seconds, longest, out, lambda: os.write(wish, b"."))
    except BrokenPipeError:
        # The reader has seen enough.
        os._exit(0)
    finally:
        os._exit(1)


def _limit(path: bytes, cpu_seconds: float) -> None:
    memory = MEMORY_BYTES
    with suppress(OSError):
        # The file is mapped to check its length.
        memory += os.stat(path).st_size  # noqa: PTH116 - the name may be no text
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (LONGEST_CPU_SECONDS, LONGEST_CPU_SECONDS))
    # The end of the process that forked this one ends it too.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The signal ends the process, wherever it is: no handler is set.
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)


def _decode(
    path: bytes,
    frames: int,
    cpu_seconds: float,
    longest_seconds: float,
    out: BinaryIO,
    wish: Callable[[], object],
) -> None:
    due = time.monotonic() + COUNTING_SECONDS

    def allow_time() -> None:
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)

    def report_counting() -> None:
        nonlocal due
        allow_time()
        if time.monotonic() >= due:
            _write_object(out, {})
            due = time.monotonic() + COUNTING_SECONDS

    try:
        with closing(_open(path, wish)) as reader:
            if not frames:
                reader.count_frames(report_counting, longest_seconds)
            _write_object(out, reader.about)
            while frames:
                # Each block has the whole time again.
                allow_time()
                block = reader.read(frames)
                out.write(SIZE.pack(len(block)))
                out.write(block.tobytes())
                out.flush()
                if not len(block):
                    return
    except UnsuitableError as error:
        _write_object(out, {"error": str(error)})
    except FfmpegError as error:
        _write_object(out, {"error": f"cannot be read: {error}"})
    except BrokenPipeError:
        raise
    except (OSError, TypeError, ValueError, OverflowError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or error
        _write_object(out, {"error": f"cannot be read: {reason}"})


def _open(path: bytes, wish: Callable[[], object]) -> LibsndfileReader | FfmpegReader:
    """Open a file with libsndfile, or with FFmpeg where libsndfile would not read all of it."""
    try:
        return LibsndfileReader(path)
    except UnsuitableError as error:
        reason = str(error).rstrip(".")
    try:
        reader = FfmpegReader(path)
    except ImportError:
        raise UnsuitableError(f"{reason}. {INSTALL}.") from None
    except FfmpegError as error:
        raise UnsuitableError(f"{reason} (FFmpeg: {error}).") from error
    finally:
        wish()
    return reader


def _write_object(out: BinaryIO, fields: dict[str, Any]) -> None:
    text = json.dumps(fields).encode()
    out.write(SIZE.pack(-len(text)) + text)
    out.flush()


if __name__ == "__main__":
    main()
