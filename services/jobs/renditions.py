"""Renditions of a take, made on request: other formats, the waveform, the spectrogram.

Each is cached under a key made of everything that decides its bytes. It is made once on each
machine, even for several requests at the same time.
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
from services.jobs.attachments import AttachedFile, local_attachment
from services.jobs.outfile import encode_take
from services.library.attachments import MIDI
from services.library.store.cache import CACHE_FOLDER, FileCache

if TYPE_CHECKING:
    from services.jobs.models import Job
    from services.jobs.service import MusicService

PeaksForm = Literal["json", "dat"]

WAV = ".wav"
_DEFAULT_PAIRS = 1000


class RenditionMissingError(Exception):
    """The rendition is not cached, and the caller does not want to wait until it is made."""


@dataclass(frozen=True, slots=True)
class Rendition:
    """A file on this machine; the cache may delete it later."""

    path: Path
    etag: str
    """Differs between different contents; without quotes."""
    media_type: str
    sha256: str | None = None
    """Hexadecimal; None when it is unknown without reading the file."""


class Renditions:
    """Makes and caches the renditions that one process serves."""

    def __init__(self, service: MusicService) -> None:
        self._service = service
        settings = service.settings
        self._cache = FileCache(settings.output_dir / CACHE_FOLDER, settings.file_cache_mib * 2**20)
        self._levels = (settings.target_lufs, settings.true_peak_dbtp)
        self._changed = threading.Condition()
        self._in_progress: set[str] = set()

    def audio(self, job: Job, suffix: str, *, may_make: bool = True) -> Rendition:
        """Return the audio of a completed job in a format.

        Args:
            job: has a file.
            suffix: .wav, .flac, .mp3, .ogg or .opus.
            may_make: False only looks in the cache.

        Raises:
            RenditionMissingError: it is not cached, and `may_make` is False.
            UnknownGenerationError: the job no longer has a file.
            OutputError: the take cannot be read, or the disk has no space for the rendition.
        """
        from services.audio.encoding import choose_format

        source = self._service.local_copy(job.job_id)
        audio_format = choose_format(f"x{suffix}")
        if suffix == WAV:
            etag = job.file_sha256 or _stamp(source)
            return Rendition(source, etag, audio_format.media_type, job.file_sha256)
        key = _key(job, source, suffix, *self._levels)
        path = self._get_or_make(
            f"{key}{suffix}", lambda path: encode_take(source, path, *self._levels), may_make
        )
        return Rendition(path, key, audio_format.media_type)

    def attached(self, attached: AttachedFile) -> Rendition:
        """Return a stem or the MIDI file of a job, as it is stored.

        Raises:
            FileGoneError: it is gone.
            OutputError: the store cannot be used, or the file is damaged.
        """
        path = local_attachment(self._service, attached)
        media_type = "audio/midi" if attached.kind == MIDI else "audio/wav"
        return Rendition(path, attached.sha256, media_type, attached.sha256)

    def peaks(
        self, job: Job, form: PeaksForm, pairs: int = _DEFAULT_PAIRS, *, may_make: bool = True
    ) -> Rendition:
        """Return the waveform at the coarsest zoom that has at least `pairs` points.

        Args:
            job: has a file.
            form: JSON, or the binary format of audiowaveform.
            pairs: a pair is the lowest and highest sample of a stretch, for each channel.
            may_make: as for `audio`.

        Raises:
            RenditionMissingError, UnknownGenerationError, OutputError: as `audio`.
        """
        source = self._service.local_copy(job.job_id)
        key = _key(job, source, "peaks", form, pairs)

        def make(path: Path) -> None:
            from services.audio import compute_source_peaks, open_audio

            level = compute_source_peaks(open_audio(source)).at_least(pairs)
            data = level.to_dat() if form == "dat" else json.dumps(level.to_dict()).encode()
            _write(path, data)

        media_type = "application/octet-stream" if form == "dat" else "application/json"
        return Rendition(self._get_or_make(f"{key}.{form}", make, may_make), key, media_type)

    def spectrogram(self, job: Job, *, may_make: bool = True) -> Rendition:
        """Return the spectrogram as a PNG image; raises as `audio`."""
        source = self._service.local_copy(job.job_id)
        key = _key(job, source, "spectrogram")

        def make(path: Path) -> None:
            from services.audio import draw_source_spectrogram, open_audio

            audio = open_audio(source)
            _write(path, draw_source_spectrogram(audio, audio.frames))

        return Rendition(self._get_or_make(f"{key}.png", make, may_make), key, "image/png")

    def _get_or_make(self, name: str, make: Callable[[Path], None], may_make: bool) -> Path:
        if not may_make:
            return self._cache.get_or_make(name, _refuse)
        with self._exclusive(name):
            try:
                return self._cache.get_or_make(name, make)
            except (OSError, RuntimeError) as error:
                raise OutputError(f"The take could not be converted: {error}") from error

    @contextmanager
    def _exclusive(self, name: str) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: name not in self._in_progress)
            self._in_progress.add(name)
        try:
            yield
        finally:
            with self._changed:
                self._in_progress.discard(name)
                self._changed.notify_all()


def _key(job: Job, source: Path, *parts: object) -> str:
    """Return a cache key from everything that decides the bytes of a rendition."""
    named = [job.file_sha256 or _stamp(source), __version__, _library_version(), *parts]
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()[:40]


def _stamp(path: Path) -> str:
    found = path.stat()
    return f"{found.st_size:x}-{found.st_mtime_ns:x}"


def _library_version() -> str:
    import soundfile  # type: ignore[import-untyped]  # ships neither stubs nor py.typed

    return str(soundfile.__libsndfile_version__)


def _refuse(path: Path) -> None:
    raise RenditionMissingError(path.name)


def _write(path: Path, data: bytes) -> None:
    from services.audio.atomic import atomic_file

    with atomic_file(path, "cached") as staged:
        with staged.explain_errors():
            staged.temporary.write_bytes(data)
        staged.finish(frames=0, sha256=hashlib.sha256(data).hexdigest())
        staged.publish()
