"""Finds the checkpoint of a model on this machine and checks its files. No torch.

Checkpoints are searched in the models folder of the settings, then in the user's Hugging Face
cache, never on the network. The check: the configuration belongs to the model, every tensor of the
decoder has its shape, and no file is truncated. The installer checks digests.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from services.errors import CheckpointError
from services.generation.musicgen.checkpoint.layout import (
    DECODER,
    UNUSED,
    decoder_tensors,
    read_geometry,
)
from services.generation.weights.safetensors_header import StoredTensor, read_header
from services.installation import name_install_command

if TYPE_CHECKING:
    from services.generation.musicgen.catalogue import PublishedModel
    from services.generation.musicgen.geometry import Geometry

CONFIG, WEIGHTS = "config.json", "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER = "tokenizer.json"
RECORD = "installed.json"
"""The installer's record beside the files: repository, revision and digests."""

_PICKLED = ("pytorch_model*.bin*", "state_dict.bin", "compression_state_dict.bin", "*.pt", "*.ckpt")
_EXTRA = ("torch", "transformers", "tokenizers", "huggingface_hub")

Source = Literal["models folder", "Hugging Face cache"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint whose files passed the check."""

    name: str
    """The name of its folder."""
    folder: Path
    source: Source
    revision: str | None
    """The commit of its files, if it is known."""
    config: Mapping[str, Any]
    """config.json."""
    geometry: Geometry
    tensors: Mapping[str, StoredTensor]
    """By name in the files."""


ABSENT = "its weights are not on this machine"
"""Start of the message for a model that is not installed."""


def find_checkpoint(model: PublishedModel, models_dir: Path) -> Checkpoint:
    """Return the checkpoint of a published model.

    Raises:
        CheckpointError: it is missing or damaged; the message names the command that helps.
    """
    command = f"`{model.install_command}`"
    folder = models_dir / model.name
    if _is_folder(folder):
        return _open_published(model, folder, "models folder", command)
    reason = CheckpointError(f"{ABSENT}: {command}")
    for number, cached in enumerate(_cached_folders(model)):
        try:
            return _open_published(model, cached, "Hugging Face cache", command)
        except CheckpointError as error:
            # The pinned commit comes first; report what is wrong with that one.
            reason = error if number == 0 else reason
    raise reason


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error


def why_unavailable(model: PublishedModel, models_dir: Path) -> str | None:
    """Return in one sentence why a model cannot run on this machine; None if it can."""
    if missing := missing_package():
        models = () if model.is_added else (model.name,)
        command = name_install_command(*models, needs_packages=True)
        return f"{missing} is not installed: `{command}`"
    try:
        find_checkpoint(model, models_dir)
    except CheckpointError as error:
        return str(error)
    return None


def missing_package() -> str | None:
    """Return the first missing package of the extra `musicgen`; nothing is imported."""
    return next((name for name in _EXTRA if importlib.util.find_spec(name) is None), None)


def open_checkpoint(folder: Path, source: Source = "models folder") -> Checkpoint:
    """Check the files of a folder.

    Raises:
        CheckpointError: a file is missing, damaged or of another kind; the message names it.
    """
    config = read_json(folder / CONFIG)
    try:
        geometry = read_geometry(config)
    except ValueError as error:
        raise CheckpointError(
            f"{folder / CONFIG} is not a configuration of MusicGen: {error}."
        ) from error
    for part in ("text_encoder", "audio_encoder"):
        if not isinstance(config.get(part), Mapping):
            raise CheckpointError(f"{folder / CONFIG} describes no {part}.")
    tensors = list_tensors(folder)
    _check_decoder(geometry, tensors)
    if not (folder / TOKENIZER).is_file():
        raise CheckpointError(f"{folder} has no {TOKENIZER}.")
    return Checkpoint(
        name=folder.name,
        folder=folder,
        source=source,
        revision=_revision(folder, source),
        config=config,
        geometry=geometry,
        tensors=tensors,
    )


def list_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Return all tensors in the safetensors files of a checkpoint.

    Raises:
        CheckpointError: a file is missing or damaged, or all files are pickled.
    """
    if (folder / WEIGHTS).is_file():
        return read_header(folder / WEIGHTS)
    if (folder / INDEX).is_file():
        return _list_sharded(folder)
    if any(next(folder.glob(pattern), None) for pattern in _PICKLED):
        raise CheckpointError(
            f"{folder} has only pickled weights, which can run any program when they are opened. "
            f"Only {WEIGHTS} is read."
        )
    raise CheckpointError(f"{folder} has no {WEIGHTS}.")


def shard_names(index: Mapping[str, Any]) -> list[str]:
    """Return the sorted file names in an index.

    Raises:
        ValueError: it is not an index, or names a file outside its folder.
    """
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, Mapping) or not weight_map:
        raise ValueError("it names no files")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ValueError(f"it names {name!r}")
    return names


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: the file is missing or holds no object.
    """
    try:
        if path.exists() and not path.is_file():
            # A pipe would be waited for.
            raise CheckpointError(f"{path} is not a file.")
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: it is not JSON.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is damaged: it holds no JSON object.")
    return value


def _open_published(
    model: PublishedModel, folder: Path, source: Source, command: str
) -> Checkpoint:
    try:
        found = open_checkpoint(folder, source)
    except CheckpointError as error:
        raise CheckpointError(f"{str(error).rstrip('.')}. To repair it: {command}") from error
    if found.geometry != model.geometry:
        raise CheckpointError(
            f"{folder} holds another model: {_describe(found.geometry)}, but {model.name} has "
            f"{_describe(model.geometry)}. Move it away, then: {command}"
        )
    return replace(found, revision=model.revision) if model.is_added else found


def _describe(shape: Geometry) -> str:
    melody = "" if shape.cross_attention else " for melodies"
    return f"{shape.layers} layers of {shape.hidden} with {shape.codebooks} codebooks{melody}"


def _list_sharded(folder: Path) -> dict[str, StoredTensor]:
    index = read_json(folder / INDEX)
    try:
        names = shard_names(index)
    except ValueError as error:
        raise CheckpointError(f"{folder / INDEX} is damaged: {error}.") from error
    found: dict[str, StoredTensor] = {}
    for name in names:
        found |= read_header(folder / name)
    if missing := index["weight_map"].keys() - found.keys():
        raise CheckpointError(f"{folder} lacks {min(missing)}, which {INDEX} names.")
    return found


def _check_decoder(shape: Geometry, tensors: Mapping[str, StoredTensor]) -> None:
    wanted = dict(decoder_tensors(shape))
    for name, size in wanted.items():
        stored = tensors.get(name)
        if stored is None:
            raise CheckpointError(f"The checkpoint has no tensor {name}.")
        if stored.shape != size:
            raise CheckpointError(
                f"{name} in {stored.path} has the shape {list(stored.shape)}, and the "
                f"configuration needs {list(size)}."
            )
    for name in sorted(tensors.keys() - wanted.keys() - UNUSED):
        if name.startswith(DECODER):
            raise CheckpointError(
                f"{tensors[name].path} has a tensor {name}, which the configuration does not have."
            )


def _revision(folder: Path, source: Source) -> str | None:
    if source == "Hugging Face cache":
        return folder.name
    try:
        revision = read_json(folder / RECORD).get("revision")
    except CheckpointError:
        return None
    return revision if isinstance(revision, str) else None


def _cached_folders(model: PublishedModel) -> list[Path]:
    """Return the cached folders of the pinned commit and of the last known `main`."""
    if model.is_added or importlib.util.find_spec("huggingface_hub") is None:
        return []
    from huggingface_hub import constants

    folder = f"models--{model.repository.replace('/', '--')}"
    if not Path(constants.HF_HUB_CACHE, folder).is_dir():
        # Importing try_to_load_from_cache takes as long as starting the rest of a command.
        return []
    from huggingface_hub import try_to_load_from_cache

    found = (
        try_to_load_from_cache(model.repository, CONFIG, revision=revision)
        for revision in dict.fromkeys((model.revision, None))
    )
    return list(dict.fromkeys(Path(path).parent for path in found if isinstance(path, str)))
