"""Inputs: audio files that requests name, stored by their SHA-256 and fetched for engines.

An input is stored unchanged as `inputs/<first two digits of its SHA-256>/<SHA-256>`: once, however
often it is sent. A job that used it can be repeated.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services import storage
from services.errors import (
    FileDamagedError,
    FileGoneError,
    InvalidRequestError,
    OutputError,
    UnknownInputError,
)
from services.generation.engine import SHORTEST_REFERENCE_SECONDS, SILENT_PEAK
from services.library.drafts import StrPath, draft_path
from services.library.input_names import INPUTS, SHA256, input_name, metadata_key
from services.library.reconcile import has_take
from services.machine.shortage import find_shortage
from services.machine.space import require_disk_floor

if TYPE_CHECKING:
    from services.config import Settings
    from services.library.orders import Order
    from services.library.store import FileStore

_PIECE = 1 << 20
_MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """An audio file that requests may name."""

    id: str
    """The SHA-256 of its bytes, hexadecimal."""
    bytes: int
    seconds: float
    sample_rate: int
    """Hz."""
    channels: int
    container: str
    """As in `AudioFile`: WAV, FLAC, MP3, OGG, MP4, ..."""
    remarks: tuple[str, ...]
    """As in `AudioFile`: a mix to stereo, damage."""
    is_new: bool
    """Whether it was not in the store before."""


class Upload:
    """An audio file while it is received."""

    def __init__(self, path: Path, max_bytes: int | None) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._digest = hashlib.sha256()
        self._bytes = 0

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes received so far, hexadecimal."""
        return self._digest.hexdigest()

    def write(self, pieces: Iterable[bytes]) -> None:
        """Append to the file.

        Raises:
            InvalidRequestError: the file is larger than the setting allows.
            OutputError: the disk refuses.
        """
        try:
            with self.path.open("ab") as out:
                for piece in pieces:
                    self._bytes += len(piece)
                    if self._max_bytes is not None and self._bytes > self._max_bytes:
                        raise InvalidRequestError(
                            f"The audio file has over {self._max_bytes / _MIB:g} MiB. Cut it, send "
                            "it as FLAC or MP3, or raise DGX_MUSIC_INPUT_MAX_BYTES."
                        )
                    self._digest.update(piece)
                    out.write(piece)
        except OSError as error:
            raise OutputError(f"Could not write {self.path}: {error.strerror}.") from error


class InputStore:
    """The inputs in a store."""

    def __init__(self, settings: Settings, store: FileStore) -> None:
        self._settings = settings
        self._store = store

    def add(self, path: Path) -> Input:
        """Copy a file of this machine to the store.

        Raises:
            InvalidRequestError: the file is missing, not audio, silent, too large, or outside the
                allowed lengths.
            OutputError: it cannot be stored.
        """
        try:
            is_file = path.is_file()
        except OSError as error:
            raise InvalidRequestError(f"{path} cannot be read: {error.strerror}.") from error
        if not is_file:
            raise InvalidRequestError(f"There is no audio file {path}.")
        with self.receive() as upload:
            self._copy(path, upload)
            return self.accept(upload, label=str(path))

    @contextmanager
    def receive(self, *, is_take: bool = False) -> Iterator[Upload]:
        """Provide an empty upload to write to; it is deleted at the end of the block.

        Args:
            is_take: whether the file is a take of this project, which may have any size.

        Raises:
            OutputError: too little space is free, or the folder cannot be written.
        """
        require_disk_floor(self._settings)
        nonce = uuid.uuid4().hex
        path = Path(draft_path(self._settings.output_dir / INPUTS / "new", nonce))
        _make_folder(path.parent)
        try:
            yield Upload(path, None if is_take else self._settings.input_max_bytes)
        finally:
            shutil.rmtree(path.parent, ignore_errors=True)

    def accept(self, upload: Upload, *, label: str) -> Input:
        """Check a complete upload and move it to the store.

        Args:
            upload: complete.
            label: the sender's name for the file, for messages.

        Raises:
            InvalidRequestError: it is not audio, silent, too short or too long.
            OutputError: it cannot be stored.
        """
        found = self._examine(upload, label)
        name = input_name(found.id)
        if not found.is_new and not self._is_damaged(name, found.id):
            return found
        # A store publishes from the draft's own folder.
        here = Path(draft_path(self._settings.output_dir / name, uuid.uuid4().hex))
        _make_folder(here.parent)
        try:
            upload.path.replace(here)
            _flush(here)
            self._store.upload(here, name, found.id)
            self._store.publish(here, name)
        except OSError as error:
            raise OutputError(f"Could not write {here}: {error.strerror}.") from error
        finally:
            shutil.rmtree(here.parent, ignore_errors=True)
        return found

    def resolve(self, references: Mapping[str, str], owner: str | None) -> dict[str, Any]:
        """Return the entries of a row's metadata that name the inputs of its request.

        Args:
            references: field of the request -> id of an input, or of a completed job, whose take
                becomes an input.
            owner: whose jobs may be named; None for all jobs.

        Raises:
            UnknownInputError: there is no such input, or no such job of this owner.
            OutputError: the store cannot be used.
        """
        metadata: dict[str, Any] = {}
        for field, reference in references.items():
            if SHA256.fullmatch(reference):
                if not self._store.exists(input_name(reference)):
                    raise unknown_input(field, reference)
                metadata[metadata_key(field)] = reference
            else:
                metadata[metadata_key(field)] = self._store_take(field, reference, owner)
                metadata[f"{field}_job"] = reference
        return metadata

    def _store_take(self, field: str, job_id: str, owner: str | None) -> str:
        with storage.get_session(read_only=True) as session:
            row = storage.get_generation(session, job_id)
        if row is None or (owner is not None and row.owner != owner):
            raise unknown_input(field, job_id)
        if not has_take(row):
            raise UnknownInputError(
                f"{field}: the job {job_id!r} is {row.status} and has no audio to work from.", field
            )
        if row.file_sha256 is not None and self._store.exists(input_name(row.file_sha256)):
            return row.file_sha256
        try:
            local = self._store.local_copy(row.file_path, row.file_sha256)
        except FileNotFoundError as error:
            raise FileGoneError(f"{field}: the audio of the job {job_id!r} is gone.") from error
        with self.receive(is_take=True) as upload:
            self._copy(local, upload)
            return self.accept(upload, label=f"the job {job_id}").id

    def _copy(self, path: Path, upload: Upload) -> None:
        try:
            with path.open("rb") as file:
                upload.write(iter(partial(file.read, _PIECE), b""))
        except OSError as error:
            raise InvalidRequestError(f"{path} cannot be read: {error.strerror}.") from error

    def _is_damaged(self, name: str, sha256: str) -> bool:
        try:
            self._store.local_copy(name, sha256)
        except FileDamagedError:
            return True
        return False

    def _refuse_longer(self, label: str, frames: int, sample_rate: int) -> None:
        longest = self._settings.input_max_seconds
        if frames > longest * sample_rate:
            raise InvalidRequestError(
                f"{label} is longer than {longest:g} s. Cut out the part to use."
            )

    def _examine(self, upload: Upload, label: str) -> Input:
        # The whole file is decoded, because its header may be wrong.
        from services.audio.reading import UnreadableAudioError, open_audio

        longest = self._settings.input_max_seconds
        try:
            audio = open_audio(upload.path, longest_seconds=longest)
            self._refuse_longer(label, audio.frames, audio.sample_rate)
            frames, peak = 0, 0.0
            for block in audio.blocks():
                frames += block.shape[1]
                peak = max(peak, float(abs(block).max(initial=0.0)))
                self._refuse_longer(label, frames, audio.sample_rate)
        except OSError as error:
            raise find_shortage(error) or OutputError(
                "The audio file could not be examined: this machine starts no process for it."
            ) from error
        except UnreadableAudioError as error:
            message = str(error).replace(str(upload.path), label)
            raise InvalidRequestError(
                f"{message.rstrip('.')}. Send a WAV, FLAC, MP3 or Ogg file that plays elsewhere."
            ) from error
        if frames < SHORTEST_REFERENCE_SECONDS * audio.sample_rate:
            raise InvalidRequestError(
                f"{label} lasts {frames / audio.sample_rate:.2f} s, and at least "
                f"{SHORTEST_REFERENCE_SECONDS:g} s are needed. Send a longer file."
            )
        if peak < SILENT_PEAK:
            raise InvalidRequestError(f"{label} is silent. Send a file with music in it.")
        return Input(
            id=upload.sha256,
            bytes=audio.bytes,
            seconds=round(frames / audio.sample_rate, 3),
            sample_rate=audio.sample_rate,
            channels=audio.channels,
            container=audio.container,
            remarks=audio.remarks,
            is_new=not self._store.exists(input_name(upload.sha256)),
        )


def fetch_inputs(order: Order, path: StrPath, store: FileStore) -> Order:
    """Link or copy the inputs of an order beside its draft, and return the order with their paths.

    Args:
        order: names its inputs by their SHA-256.
        path: the draft; its folder is created if needed.
        store: has the inputs.

    Raises:
        FileGoneError: an input is no longer in the store, or FileDamagedError: it was altered.
        OutputError: the store or the disk refuses.
    """
    folder = Path(path).parent
    fetched: dict[str, Any] = {}
    for field, sha256 in order.inputs.items():
        # Named like a draft, so that the clean-up after a killed attempt removes it.
        target = folder / f".dgx-{field}.part"
        try:
            local = store.local_copy(input_name(sha256), sha256)
            _make_folder(folder)
            target.unlink(missing_ok=True)
            _link_or_copy(local, target)
        except FileDamagedError as error:
            raise FileDamagedError(
                f"The audio file that the job names as its {field} is damaged. Send it again, with "
                "the same request."
            ) from error
        except FileNotFoundError as error:
            # If the whole store is away, that is not the job's fault.
            store.check()
            raise FileGoneError(
                f"The audio file that the job names as its {field} is gone. Send it again, with "
                "the same request."
            ) from error
        except OSError as error:
            raise OutputError(f"Could not write {target}: {error.strerror}.") from error
        fetched[field] = target
    return replace(order, params=replace(order.params, **fetched)) if fetched else order


def unknown_input(field: str, reference: str) -> UnknownInputError:
    # The same message for a job of another owner: its existence is not revealed.
    return UnknownInputError(
        f"{field}: there is no input and no completed job {reference!r}. Send the file with "
        "POST /api/v1/inputs, and name the id in the answer.",
        field,
    )


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        # Another disk, or a file system without links.
        shutil.copyfile(source, target)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"The output folder {folder} cannot be used: {error.strerror}. Set "
            "DGX_MUSIC_OUTPUT_DIR to another one."
        ) from error
