"""Reads audio files with libsndfile, or says why it must not."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from services.audio.arrays import MAX_CHANNELS
from services.audio.lengths import check_length
from services.audio.plain_wav import find_plain_wav

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LONGEST_FRAMES = 1 << 62
"""libsndfile claims more when it does not know the length."""


class UnsuitableError(Exception):
    """libsndfile cannot read the file, or not all of it; the rest of a sentence about it."""


class LibsndfileReader:
    """A file that libsndfile reads from its start to its end."""

    def __init__(self, path: bytes) -> None:
        """Open a file.

        Raises:
            UnsuitableError: libsndfile refuses the file, or would leave out a part of it.
            OSError: the file cannot be opened.
        """
        import soundfile  # type: ignore[import-untyped]  # ships neither stubs nor py.typed

        with ExitStack() as stack:
            try:
                self._file = _open(path, stack)
            except soundfile.LibsndfileError as error:
                raise UnsuitableError(_describe(error)) from error
            self.about = self._check(path)
            self._stack = stack.pop_all()

    def read(self, frames: int) -> NDArray[np.float32]:
        """Return the next samples, `[frames, channels]`; fewer at the end only.

        Raises:
            UnsuitableError: the file is damaged.
        """
        import soundfile

        try:
            block: NDArray[np.float32] = self._file.read(frames, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise UnsuitableError(_describe(error)) from error
        return block

    def count_frames(self, report: Callable[[], None], longest_seconds: float) -> None:
        """Do nothing: the length in `about` has been checked."""

    def close(self) -> None:
        self._stack.close()

    def _check(self, path: bytes) -> dict[str, Any]:
        file = self._file
        if file.channels > MAX_CHANNELS:
            raise UnsuitableError(f"has {file.channels} channels")
        if file.frames >= _LONGEST_FRAMES:
            raise UnsuitableError("does not say how long it is")
        if file.frames < 1:
            raise UnsuitableError("has no samples")
        with open(path, "rb") as opened:  # noqa: PTH123 - the name may be no text
            length = check_length(opened, file.format, file.subtype, file.frames, file.samplerate)
        if length.shortfall:
            raise UnsuitableError(length.shortfall)
        return {
            "sample_rate": file.samplerate,
            "channels": file.channels,
            "frames": length.frames,
            "container": file.format,
            "encoding": file.subtype,
            "is_mixed_down": False,
            "remarks": [],
        }


def _open(path: bytes, stack: ExitStack) -> Any:
    import soundfile

    try:
        return stack.enter_context(soundfile.SoundFile(path))
    except soundfile.LibsndfileError:
        # The name may be no text.
        file = stack.enter_context(open(path, "rb"))  # noqa: PTH123, SIM115
        plain = find_plain_wav(file)
        if plain is None:
            raise
        return stack.enter_context(soundfile.SoundFile(plain))


def _describe(error: Any) -> str:
    return f"is not audio, or it is damaged: {error.error_string}"
