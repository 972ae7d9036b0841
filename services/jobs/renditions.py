"""What is made of a finished take when somebody asks for it: other formats, waveform, picture.

Each is kept under a key that names all that went into it, so its bytes never change, and it is made
once on each machine, however many ask at the same time.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from services import __version__
from services.errors import OutputError
from services.jobs.outfile import encode
from services.library.store.cache import CACHE_FOLDER, FileCache

if TYPE_CHECKING:
    from services.jobs.models import Job
    from services.jobs.service import MusicService

PeaksForm = Literal["json", "dat"]

WAV = ".wav"
_DEFAULT_PAIRS = 1000


class NotMadeError(Exception):
    """It would have to be made first, and was not to be."""


@dataclass(frozen=True, slots=True)
class Rendition:
    """A file on this machine, to be read soon."""

    path: Path
    etag: str
    """Another one for other bytes; without quotes."""
    media_type: str
    sha256: str | None = None
    """Hexadecimal; None where it is not known without reading the file."""


class Renditions:
    """Makes and keeps them, for one process."""

    def __init__(self, service: MusicService) -> None:
        self._service = service
        settings = service.settings
        self._cache = FileCache(settings.output_dir / CACHE_FOLDER, settings.file_cache_mib * 2**20)
        self._levels = (settings.target_lufs, settings.true_peak_dbtp)
        self._changed = threading.Condition()
        self._at_work: set[str] = set()

    def audio(self, job: Job, suffix: str, *, may_make: bool = True) -> Rendition:
        """Give the audio of a finished job.

        Args:
            job: it has a file.
            suffix: .wav, .flac, .mp3, .ogg or .opus.
            may_make: whether it may take the time of a conversion.

        Raises:
            NotMadeError: it is not there, and may not be made.
            UnknownGenerationError: it has no file after all.
            OutputError: the file cannot be had, or the disk has no room for another format.
        """
        from services.audio.encoding import choose_format

        source = self._service.local_copy(job.job_id)
        audio_format = choose_format(f"x{suffix}")
        if suffix == WAV:
            etag = job.file_sha256 or _stamp(source)
            return Rendition(source, etag, audio_format.media_type, job.file_sha256)
        key = _key(job, source, suffix, *self._levels)
        path = self._made(
            f"{key}{suffix}", lambda path: encode(source, path, *self._levels), may_make
        )
        return Rendition(path, key, audio_format.media_type)

    def peaks(
        self, job: Job, form: PeaksForm, pairs: int = _DEFAULT_PAIRS, *, may_make: bool = True
    ) -> Rendition:
        """Give the outline of the waveform, at the coarsest zoom with that many pairs or more.

        Args:
            job: it has a file.
            form: JSON, or the binary form of audiowaveform.
            pairs: of the lowest and highest sample, for each channel.
            may_make: as of `audio`.

        Raises:
            NotMadeError, UnknownGenerationError, OutputError: as `audio`.
        """
        source = self._service.local_copy(job.job_id)
        key = _key(job, source, "peaks", form, pairs)

        def make(path: Path) -> None:
            from services.audio import compute_source_peaks, open_audio

            level = compute_source_peaks(open_audio(source)).at_least(pairs)
            data = level.to_dat() if form == "dat" else json.dumps(level.to_dict()).encode()
            _write(path, data)

        media_type = "application/octet-stream" if form == "dat" else "application/json"
        return Rendition(self._made(f"{key}.{form}", make, may_make), key, media_type)

    def spectrogram(self, job: Job, *, may_make: bool = True) -> Rendition:
        """Give a picture of which frequencies sound when, as PNG; raises as `audio`."""
        source = self._service.local_copy(job.job_id)
        key = _key(job, source, "spectrogram")

        def make(path: Path) -> None:
            from services.audio import draw_source_spectrogram, open_audio

            audio = open_audio(source)
            _write(path, draw_source_spectrogram(audio, audio.frames))

        return Rendition(self._made(f"{key}.png", make, may_make), key, "image/png")

    def _made(self, name: str, make: Callable[[Path], None], may_make: bool) -> Path:
        if not may_make:
            return self._cache.get_made(name, _refuse)
        with self._alone(name):
            try:
                return self._cache.get_made(name, make)
            except (OSError, RuntimeError) as error:
                raise OutputError(f"It cannot be converted here: {error}") from error

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: name not in self._at_work)
            self._at_work.add(name)
        try:
            yield
        finally:
            with self._changed:
                self._at_work.discard(name)
                self._changed.notify_all()


def _key(job: Job, source: Path, *parts: object) -> str:
    """Name what is made of a file by all that may change its bytes."""
    named = [job.file_sha256 or _stamp(source), __version__, _library_version(), *parts]
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()[:40]


def _stamp(path: Path) -> str:
    found = path.stat()
    return f"{found.st_size:x}-{found.st_mtime_ns:x}"


def _library_version() -> str:
    import soundfile  # type: ignore[import-untyped]  # ships neither stubs nor py.typed

    return str(soundfile.__libsndfile_version__)


def _refuse(path: Path) -> None:
    raise NotMadeError(path.name)


def _write(path: Path, data: bytes) -> None:
    from services.audio.atomic import atomic_file

    with atomic_file(path, "written") as staged:
        with staged.explain_errors():
            staged.temporary.write_bytes(data)
        staged.finish(frames=0, sha256=hashlib.sha256(data).hexdigest())
        staged.publish()
