"""A published model onto this machine: whole and checked, or not there.

Files come into a hidden folder beside the place of the model, where a later call finds them if this
one is cut short; the folder gets the model's name when all of it is there and fits together.
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
"""Free space beyond the files, for what else is written meanwhile."""

Progress = Callable[[int, int], None]
"""Called with the bytes that are here and all that there will be."""


@dataclass(frozen=True, slots=True)
class Installed:
    """What came of an installation."""

    folder: Path
    revision: str | None
    outcome: Literal["installed", "repaired", "there already", "unverified", "in the cache"]
    """"unverified" is a folder that a person put there: nothing says what should be in it."""
    bytes: int
    """That were downloaded."""


def install(
    model: PublishedModel,
    models_dir: Path,
    progress: Progress = lambda _have, _all: None,
    *,
    revision: str | None = None,
    hub: Hub | None = None,
) -> Installed:
    """Install a model, go on with a download that was cut short, or mend one that is damaged.

    Args:
        model: from the catalogue.
        models_dir: where its folder is to be.
        progress: told of what comes.
        revision: another commit or branch than the one that the catalogue pins.
        hub: where it comes from; None is the public one, or that of HF_ENDPOINT.

    Raises:
        CheckpointError: the hub cannot be reached, or gives something else than this model.
        OutputError: the disk has no room, or says no.
    """
    with _disk_errors(models_dir):
        models_dir.mkdir(parents=True, exist_ok=True)
        with _only_one(models_dir, model.name):
            if there := _already(model, models_dir, revision):
                _remove(_replaced(models_dir / model.name))
                return there
            hub = hub or Hub()
            listing = hub.list_files(model.repository, revision or model.revision)
            return _install(model, models_dir, hub, listing, progress)


def _already(model: PublishedModel, models_dir: Path, revision: str | None) -> Installed | None:
    """The model, if it is here as it should be; all that was installed is read for that."""
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
    if not _is_as_recorded(found.folder):
        return None
    return Installed(found.folder, found.revision, "there already", 0)


def _is_as_recorded(folder: Path) -> bool:
    """Whether every file has the digest that was written down."""
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
    work = _Download(hub, listing, staging, target)
    work.get([_required(listing, name) for name in _REQUIRED])
    _check_shape(model, staging)
    wanted = [listing.files[name] for name in _SMALL if name in listing.files]
    wanted += work.weights()
    total = sum(file.bytes for file in wanted)
    work.count(wanted, lambda have: progress(have, total))
    _require_room(models_dir, total - work.have)
    work.get(wanted)
    open_checkpoint(staging)
    _record(staging, listing, wanted)
    is_repair = os.path.lexists(target)
    _publish(staging, target)
    for leftover in models_dir.glob(f".{model.name}.*.part"):
        _remove(leftover)
    outcome: Literal["repaired", "installed"] = "repaired" if is_repair else "installed"
    return Installed(target, listing.revision, outcome, work.downloaded)


class _Download:
    """Files of a listing on their way into a folder."""

    def __init__(self, hub: Hub, listing: Listing, staging: Path, target: Path) -> None:
        self._hub = hub
        self._listing = listing
        self._staging = staging
        self._target = target
        self._tell: Callable[[int], None] = lambda _have: None
        self._whole: set[str] = set()
        self.have = 0
        self.downloaded = 0

    def weights(self) -> list[HubFile]:
        """The files of the weights: one, or an index and its shards."""
        files = self._listing.files
        if INDEX not in files or WEIGHTS in files:
            return [_required(self._listing, WEIGHTS)]
        index = files[INDEX]
        self.get([index])
        try:
            names = shard_names(read_json(self._staging / INDEX))
        except ValueError as error:
            raise CheckpointError(f"{INDEX} of {self._listing.repository}: {error}.") from error
        return [index, *(_required(self._listing, name) for name in names)]

    def count(self, wanted: Sequence[HubFile], tell: Callable[[int], None]) -> None:
        """Begin to tell of progress, from what is here already."""
        self.have = 0
        for file in wanted:
            self._take_over(file)
            self.have += _size(self._staging / file.name) or _size(self._partial(file))
        self._tell = tell
        tell(self.have)

    def get(self, files: Sequence[HubFile]) -> None:
        """Bring files here that are not."""
        for file in files:
            path = self._staging / file.name
            self._take_over(file)
            if file.name not in self._whole:
                self._hub.download(self._listing, file, path, self._received)
                self._whole.add(file.name)

    def _take_over(self, file: HubFile) -> None:
        """Use what an earlier call, or the damaged model, has of it."""
        path, old = self._staging / file.name, self._target / file.name
        if file.name in self._whole:
            return
        if file.matches(path):
            self._whole.add(file.name)
            return
        path.unlink(missing_ok=True)
        if file.matches(old):
            self._whole.add(file.name)
            # A link takes no room; where file systems have none, it is copied.
            try:
                path.hardlink_to(old.resolve())
            except OSError:
                shutil.copyfile(old, path)

    def _partial(self, file: HubFile) -> Path:
        return self._staging / f"{file.name}{PARTIAL_SUFFIX}"

    def _received(self, count: int) -> None:
        self.have += count
        self.downloaded += max(0, count)
        self._tell(self.have)


def _required(listing: Listing, name: str) -> HubFile:
    file = listing.files.get(name)
    if file is None:
        raise CheckpointError(
            f"{listing.repository} has no {name} at {listing.revision[:12]}, and nothing else is "
            "read. `--revision` takes another commit."
        )
    return file


def _check_shape(model: PublishedModel, staging: Path) -> None:
    """Before the large files are asked for."""
    try:
        found = read_geometry(read_json(staging / CONFIG))
    except ValueError as error:
        raise CheckpointError(
            f"{CONFIG} of {model.repository} is no configuration of MusicGen: {error}."
        ) from error
    if found != model.geometry:
        raise CheckpointError(f"{model.repository} holds another model than {model.name}: {found}.")


def _require_room(models_dir: Path, missing: int) -> None:
    free = free_bytes(models_dir)
    if free < missing + _SPARE_BYTES:
        raise OutputError(
            f"{missing / _GIB:.2f} GiB are still to come, and the disk of {models_dir} has "
            f"{free / _GIB:.2f} GiB free. Free some space, or give another folder in "
            "DGX_MUSIC_MODELS_DIR."
        )


def _record(staging: Path, listing: Listing, wanted: Sequence[HubFile]) -> None:
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
        old = _replaced(target)
        _remove(old)
        target.rename(old)
        staging.rename(target)
        _remove(old)
    else:
        staging.rename(target)
    _sync(target.parent)


def _replaced(target: Path) -> Path:
    """Where a model that is replaced goes before it is deleted, which takes its time."""
    return target.with_name(f".{target.name}.replaced.part")


def _remove(path: Path) -> None:
    # A link is a person's: what it leads to stays.
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
def _only_one(models_dir: Path, name: str) -> Iterator[None]:
    with (models_dir / f".{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CheckpointError(
                f"{name} is being installed by another process. Wait for it."
            ) from error
        yield


@contextlib.contextmanager
def _disk_errors(models_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        advice = "Free some space and try again: what has come is kept."
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            advice = "Give another folder in DGX_MUSIC_MODELS_DIR."
        reason = error.strerror or str(error)
        raise OutputError(
            f"The folder of the models, {models_dir}, cannot be written: {reason}. {advice}"
        ) from error
