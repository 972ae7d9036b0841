"""Models of one's own: checkpoints of MusicGen's architecture, added by name.

A model is a link in the models folder, with a record beside it. Its files stay where they are.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from services.errors import CheckpointError, InvalidRequestError, OutputError
from services.generation.musicgen.catalogue import MODELS, PublishedModel
from services.generation.musicgen.checkpoint.checkpoints import open_checkpoint, read_json
from services.generation.musicgen.geometry import Geometry

_SUFFIX = ".added.json"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+() -]{0,99}")
_TAKEN = frozenset(
    {*MODELS, *(name.removeprefix("musicgen-") for name in MODELS), "auto", "composer"}
)


def add_model(
    name: str, folder: Path, models_dir: Path, *, licence: str, force: bool = False
) -> PublishedModel:
    """Add a checkpoint; from then on requests can name it.

    Args:
        name: of the model in requests.
        folder: has its files, in the layout of the published models.
        models_dir: the models folder of the settings.
        licence: of the music it makes, as its owner states it.
        force: replace a model that was added under this name.

    Raises:
        InvalidRequestError: the name or the licence cannot be used.
        CheckpointError: the folder holds no such checkpoint; the message names the file.
        OutputError: the models folder cannot be written.
    """
    if not _is_free(name):
        raise InvalidRequestError(
            f"A model cannot have the name {name!r}. Choose another of up to 64 small letters, "
            "digits and . _ -, which no published model has, short or in full."
        )
    if not _LICENCE.fullmatch(licence):
        raise InvalidRequestError(f"{licence!r} is no licence. Use its SPDX id, such as CC0-1.0.")
    found = open_checkpoint(_resolve(folder))
    link, record = models_dir / name, models_dir / f"{name}{_SUFFIX}"
    if record.exists() and not force:
        raise InvalidRequestError(f"There is a model {name!r} already. Add --force to replace it.")
    is_own_folder = link.exists() and not link.is_symlink()
    if is_own_folder and not link.samefile(found.folder):
        raise InvalidRequestError(f"{link} is a folder of its own. Choose another name.")
    about = {
        "licence": licence,
        "geometry": asdict(found.geometry),
        "sha256": _digest(found.folder, {stored.path for stored in found.tensors.values()}),
    }
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        new = models_dir / f".{name}.part"
        new.unlink(missing_ok=True)
        if not is_own_folder:
            new.symlink_to(found.folder, target_is_directory=True)
            new.replace(link)
        new.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        new.replace(record)
    except OSError as error:
        raise OutputError(f"{link} cannot be written: {error.strerror}.") from error
    return _describe(name, about)


def list_added(models_dir: Path) -> Iterator[PublishedModel]:
    """Yield the added models by name; a record that cannot be read is passed over."""
    for record in sorted(models_dir.glob(f"*{_SUFFIX}")):
        name = record.name.removesuffix(_SUFFIX)
        if not _is_free(name):
            continue
        try:
            yield _describe(name, read_json(record))
        except (CheckpointError, KeyError, TypeError, ValueError):
            # The link is still there, so that adding it again is all that has to be done.
            continue


def _is_free(name: str) -> bool:
    return bool(_NAME.fullmatch(name)) and name not in _TAKEN and not name.endswith(_SUFFIX)


def _resolve(folder: Path) -> Path:
    try:
        # The folder may be given as the link that is to be replaced.
        return folder.resolve(strict=True)
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error.strerror}.") from error


def _describe(name: str, about: Mapping[str, object]) -> PublishedModel:
    shape = about["geometry"]
    if not isinstance(shape, dict):
        raise TypeError("the geometry is no object")
    return PublishedModel(
        name=name,
        repository="",
        revision=str(about["sha256"]),
        geometry=Geometry(**shape),
        description="Added on this machine.",
        licence=str(about["licence"]),
        is_added=True,
    )


def _digest(folder: Path, weights: set[Path]) -> str:
    """Return the SHA-256 of the configuration and the weights, which decide how takes sound."""
    total = hashlib.sha256()
    for path in (folder / "config.json", *sorted(weights)):
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()
