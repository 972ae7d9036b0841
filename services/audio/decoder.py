"""The process that decodes audio files: a bug of libsndfile ends or delays nothing else.

It is started by decoding.py as `python -m services.audio.decoder SOCKET`, loads the library once,
and forks for each file. A fork has limits on CPU time, memory and files, and writes to a pipe what
it reads: messages that begin with a number in 4 bytes. A negative one is the length of a JSON
object, first of all about the file, or else an error. Another is the number of frames of a block,
0 at the end, and then come its samples: float32, frame by frame. It ends with the program that
started it, and the forks end with it.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
from contextlib import suppress
from typing import Any, BinaryIO

MEMORY_BYTES = 2 << 30

LONGEST_CPU_SECONDS = 900
"""Most CPU time to decode a whole file."""

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
    while True:
        while forks and not select.select([channel], [], [], COLLECT_SECONDS)[0]:
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
            _serve_fork(request, output)
        forks.add(fork)
        os.close(output)
        with suppress(BrokenPipeError):
            channel.send(str(fork).encode())


def _collect(forks: set[int]) -> set[int]:
    """Collect the forks that have ended, and return them."""
    return {fork for fork in forks if os.waitpid(fork, os.WNOHANG)[0]}


def _serve_fork(request: dict[str, Any], output: int) -> None:
    try:
        seconds = float(request["cpu_seconds"])
        with os.fdopen(output, "wb") as out:
            _limit(seconds)
            _decode(bytes.fromhex(request["path"]), int(request["frames"]), seconds, out)
    except BrokenPipeError:
        # The reader has seen enough.
        os._exit(0)
    finally:
        os._exit(1)


def _limit(cpu_seconds: float) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (LONGEST_CPU_SECONDS, LONGEST_CPU_SECONDS))
    # The end of the process that forked this one ends it too.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The signal ends the process, wherever it is: no handler is set.
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)


def _decode(path: bytes, frames: int, cpu_seconds: float, out: BinaryIO) -> None:
    import soundfile

    try:
        with soundfile.SoundFile(path) as file:
            about = {
                "sample_rate": file.samplerate,
                "channels": file.channels,
                "frames": file.frames,
                "container": file.format,
                "encoding": file.subtype,
            }
            _write_object(out, about)
            while frames:
                # Each block has the whole time again.
                signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
                block = file.read(frames, dtype="float32", always_2d=True)
                out.write(SIZE.pack(len(block)))
                out.write(block.tobytes())
                out.flush()
                if not len(block):
                    return
    except soundfile.LibsndfileError as error:
        reason = f"is not audio, or it is damaged: {error.error_string}"
        _write_object(out, {"error": reason})
    except BrokenPipeError:
        raise
    except (OSError, TypeError, ValueError, OverflowError, MemoryError) as error:
        _write_object(out, {"error": f"cannot be read: {error}"})


def _write_object(out: BinaryIO, fields: dict[str, Any]) -> None:
    text = json.dumps(fields).encode()
    out.write(SIZE.pack(-len(text)) + text)
    out.flush()


if __name__ == "__main__":
    main()
