"""Installs a published model: complete and checked, or not at all.

Files are downloaded into a hidden folder beside the model's folder, from which a later call can
resume. When all files are complete and fit together, the hidden folder gets the model's name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from services.errors import CheckpointError, OutputError
from services.generation.musicgen.checkpoint.checkpoints import (
    CONFIG,
    INDEX,
    RECORD,
    TOKENIZER,
    WEIGHTS,
    find_checkpoint,
    open_checkpoint,
    read_json,
    shard_names,
)
from services.generation.musicgen.checkpoint.layout import read_geometry
from services.generation.weights.hub import PARTIAL_SUFFIX, Hub, HubFile, Listing, digest
from services.machine.space import free_bytes

if TYPE_CHECKING:
    from services.generation.musicgen.catalogue import PublishedModel

_SMALL = (
    CONFIG,
    TOKENIZER,
    "generation_config.json",
    "preprocessor_config.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
)
_REQUIRED = (CONFIG, TOKENIZER)
_GIB = 1 << 30
_SPARE_BYTES = 64 << 20
"""Free space required beyond the files, because others write to the disk too."""

Progress = Callable[[int, int], None]
"""Called with the bytes on this machine and the bytes of all files."""


@dataclass(frozen=True, slots=True)
class Installed:
    folder: Path
    revision: str | None
    outcome: Literal["installed", "repaired", "there already", "unverified", "in the cache"]
    """"unverified" is a folder without a record, which the user put there."""
    bytes: int
    """Downloaded bytes."""


def install(
    model: PublishedModel,
    models_dir: Path,
    progress: Progress = lambda _have, _all: None,
    *,
    revision: str | None = None,
    hub: Hub | None = None,
) -> Installed:
    """Install a model, resume an interrupted download, or repair a damaged model.

    Args:
        model: a model of the catalogue.
        models_dir: the parent of its folder.
        progress: called as bytes arrive.
        revision: a commit or branch other than the pinned one.
        hub: the source; None is that of HF_ENDPOINT or the public hub.

    Raises:
        CheckpointError: the hub is unreachable, or has something else than this model.
        OutputError: the disk is full or cannot be written.
    """
    with _disk_errors(models_dir):
        models_dir.mkdir(parents=True, exist_ok=True)
        with _lock(models_dir, model.name):
            if installed := _find_installed(model, models_dir, revision):
                _remove(_replaced_path(models_dir / model.name))
                return installed
            hub = hub or Hub()
            listing = hub.list_files(model.repository, revision or model.revision)
            return _install(model, models_dir, hub, listing, progress)


def _find_installed(
    model: PublishedModel, models_dir: Path, revision: str | None
) -> Installed | None:
    """Return the model if it is installed and undamaged; this reads all its files."""
    try:
        found = find_checkpoint(model, models_dir)
    except CheckpointError:
        return None
    if revision is not None and found.revision != revision:
        return None
    if found.source == "Hugging Face cache":
        return Installed(found.folder, found.revision, "in the cache", 0)
    if not (found.folder / RECORD).is_file():
        return Installed(found.folder, found.revision, "unverified", 0)
    if not _matches_record(found.folder):
        return None
    return Installed(found.folder, found.revision, "there already", 0)


def _matches_record(folder: Path) -> bool:
    try:
        files = read_json(folder / RECORD)["files"]
        return all(digest(folder / name) == about["sha256"] for name, about in files.items())
    except (AttributeError, CheckpointError, KeyError, OSError, TypeError):
        return False


def _install(
    model: PublishedModel,
    models_dir: Path,
    hub: Hub,
    listing: Listing,
    progress: Progress,
) -> Installed:
    target = models_dir / model.name
    staging = models_dir / f".{model.name}.{listing.revision[:12]}.part"
    staging.mkdir(exist_ok=True)
    download = _Download(hub, listing, staging, target)
    download.fetch([_require_file(listing, name) for name in _REQUIRED])
    _check_shape(model, staging)
    wanted = [listing.files[name] for name in _SMALL if name in listing.files]
    wanted += download.list_weights()
    total = sum(file.bytes for file in wanted)
    download.start_progress(wanted, lambda have: progress(have, total))
    _require_space(models_dir, total - download.have)
    download.fetch(wanted)
    open_checkpoint(staging)
    _write_record(staging, listing, wanted)
    is_repair = os.path.lexists(target)
    _publish(staging, target)
    for leftover in models_dir.glob(f".{model.name}.*.part"):
        _remove(leftover)
    outcome: Literal["repaired", "installed"] = "repaired" if is_repair else "installed"
    return Installed(target, listing.revision, outcome, download.received)


class _Download:
    """Downloads files of a listing into a staging folder, and reuses those of `target`."""

    def __init__(self, hub: Hub, listing: Listing, staging: Path, target: Path) -> None:
        self._hub = hub
        self._listing = listing
        self._staging = staging
        self._target = target
        self._report: Callable[[int], None] = lambda _have: None
        self._complete: set[str] = set()
        self.have = 0
        """Bytes of the wanted files on this machine."""
        self.received = 0
        """Downloaded bytes."""

    def list_weights(self) -> list[HubFile]:
        """Return the files of the weights: one, or an index, which is fetched, and its shards."""
        files = self._listing.files
        if INDEX not in files or WEIGHTS in files:
            return [_require_file(self._listing, WEIGHTS)]
        index = files[INDEX]
        self.fetch([index])
        try:
            names = shard_names(read_json(self._staging / INDEX))
        except ValueError as error:
            raise CheckpointError(f"{INDEX} of {self._listing.repository}: {error}.") from error
        return [index, *(_require_file(self._listing, name) for name in names)]

    def start_progress(self, wanted: Sequence[HubFile], report: Callable[[int], None]) -> None:
        """Report the bytes that earlier calls left, and from now on those that arrive."""
        self.have = 0
        for file in wanted:
            self._reuse(file)
            self.have += _size(self._staging / file.name) or _size(self._partial(file))
        self._report = report
        report(self.have)

    def fetch(self, files: Sequence[HubFile]) -> None:
        """Download the files that are not complete yet."""
        for file in files:
            path = self._staging / file.name
            self._reuse(file)
            if file.name not in self._complete:
                self._hub.download(self._listing, file, path, self._count)
                self._complete.add(file.name)

    def _reuse(self, file: HubFile) -> None:
        """Use the file of an earlier call or of the damaged model, if it is intact."""
        path, old = self._staging / file.name, self._target / file.name
        if file.name in self._complete:
            return
        if file.matches(path):
            self._complete.add(file.name)
            return
        path.unlink(missing_ok=True)
        if file.matches(old):
            self._complete.add(file.name)
            # A hard link needs no space; not all file systems have them.
            try:
                path.hardlink_to(old.resolve())
            except OSError:
                shutil.copyfile(old, path)

    def _partial(self, file: HubFile) -> Path:
        return self._staging / f"{file.name}{PARTIAL_SUFFIX}"

    def _count(self, count: int) -> None:
        self.have += count
        self.received += max(0, count)
        self._report(self.have)


def _require_file(listing: Listing, name: str) -> HubFile:
    file = listing.files.get(name)
    if file is None:
        raise CheckpointError(
            f"{listing.repository} has no {name} at {listing.revision[:12]}, which is required. "
            "Use `--revision` to install another commit."
        )
    return file


def _check_shape(model: PublishedModel, staging: Path) -> None:
    # The configuration is small: a wrong model is refused before its weights are downloaded.
    try:
        found = read_geometry(read_json(staging / CONFIG))
    except ValueError as error:
        raise CheckpointError(
            f"{CONFIG} of {model.repository} is not a configuration of MusicGen: {error}."
        ) from error
    if found != model.geometry:
        raise CheckpointError(f"{model.repository} holds another model than {model.name}: {found}.")


def _require_space(models_dir: Path, missing: int) -> None:
    free = free_bytes(models_dir)
    if free < missing + _SPARE_BYTES:
        raise OutputError(
            f"The download needs {missing / _GIB:.2f} GiB, and the disk of {models_dir} has "
            f"{free / _GIB:.2f} GiB free. Free some space, or set DGX_MUSIC_MODELS_DIR to another "
            "folder."
        )


def _write_record(staging: Path, listing: Listing, wanted: Sequence[HubFile]) -> None:
    files = {
        file.name: {
            "bytes": file.bytes,
            "sha256": file.sha256 or digest(staging / file.name),
        }
        for file in wanted
    }
    record = {"repository": listing.repository, "revision": listing.revision, "files": files}
    text = json.dumps(record, indent=2) + "\n"
    (staging / RECORD).write_text(text, encoding="utf-8")


def _publish(staging: Path, target: Path) -> None:
    for path in (*staging.iterdir(), staging):
        _sync(path)
    if os.path.lexists(target):
        old = _replaced_path(target)
        _remove(old)
        target.rename(old)
        staging.rename(target)
        _remove(old)
    else:
        staging.rename(target)
    _sync(target.parent)


def _replaced_path(target: Path) -> Path:
    # Deleting takes long: a replaced model is renamed first, and a later call deletes leftovers.
    return target.with_name(f".{target.name}.replaced.part")


def _remove(path: Path) -> None:
    # A link was made by the user: its target stays.
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@contextlib.contextmanager
def _lock(models_dir: Path, name: str) -> Iterator[None]:
    with (models_dir / f".{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CheckpointError(
                f"Another process is installing {name}. Wait until it has finished."
            ) from error
        yield


@contextlib.contextmanager
def _disk_errors(models_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        advice = "Free some space and try again: the download resumes."
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            advice = "Set DGX_MUSIC_MODELS_DIR to another folder."
        reason = error.strerror or str(error)
        raise OutputError(
            f"The models folder {models_dir} cannot be written: {reason}. {advice}"
        ) from error
