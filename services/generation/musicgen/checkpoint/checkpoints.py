"""Where the checkpoint of a model lies on this machine, and whether it is whole. No torch.

Looked for in the folder of the settings, then in the user's Hugging Face cache, never on the
network. Whole means: the configuration is that model's, every tensor of the decoder is there in its
shape, and no file is cut off. What only reading all of it would show is left to the installer.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
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

if TYPE_CHECKING:
    from services.generation.musicgen.catalogue import PublishedModel
    from services.generation.musicgen.geometry import Geometry

CONFIG, WEIGHTS = "config.json", "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER = "tokenizer.json"
RECORD = "installed.json"
"""What the installer writes down beside the files: repository, revision and digests."""

_PICKLED = ("pytorch_model*.bin*", "state_dict.bin", "compression_state_dict.bin", "*.pt", "*.ckpt")
_EXTRA = ("torch", "transformers", "tokenizers", "huggingface_hub")

Source = Literal["models folder", "Hugging Face cache"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint whose files were looked at and fit together."""

    name: str
    """Of the model; the folder's where it is not a published one."""
    folder: Path
    source: Source
    revision: str | None
    """The commit it was taken from, where that is known."""
    config: Mapping[str, Any]
    """config.json."""
    geometry: Geometry
    tensors: Mapping[str, StoredTensor]
    """Where each tensor lies, by its name in the files."""


ABSENT = "its weights are not on this machine"
"""What is said of a model that nobody installed."""


def find_checkpoint(model: PublishedModel, models_dir: Path) -> Checkpoint:
    """The checkpoint of a published model.

    Raises:
        CheckpointError: it is not on this machine, or damaged; with the command that helps.
    """
    command = f"`dgx-music models install {model.name}`"
    folder = models_dir / model.name
    if _is_folder(folder):
        return _open_published(model, folder, "models folder", command)
    reason = CheckpointError(f"{ABSENT}: {command}")
    for number, cached in enumerate(_cached_folders(model)):
        try:
            return _open_published(model, cached, "Hugging Face cache", command)
        except CheckpointError as error:
            # The pinned commit comes first, and what it lacks is what counts.
            reason = error if number == 0 else reason
    raise reason


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error


def why_unavailable(model: PublishedModel, models_dir: Path) -> str | None:
    """What a model lacks on this machine, in one sentence; None when it can run."""
    if missing := missing_package():
        return f"{missing} is not installed: `./just install-models {model.name}`"
    try:
        find_checkpoint(model, models_dir)
    except CheckpointError as error:
        return str(error)
    return None


def missing_package() -> str | None:
    """The first package of the extra `musicgen` that is not there; nothing is imported."""
    return next((name for name in _EXTRA if importlib.util.find_spec(name) is None), None)


def open_checkpoint(folder: Path, source: Source = "models folder") -> Checkpoint:
    """Look at the files of a folder.

    Raises:
        CheckpointError: one is missing, damaged or of another kind; the message names it.
    """
    config = read_json(folder / CONFIG)
    try:
        geometry = read_geometry(config)
    except ValueError as error:
        raise CheckpointError(f"{folder / CONFIG} is no configuration of MusicGen: {error}.") from (
            error
        )
    for part in ("text_encoder", "audio_encoder"):
        if not isinstance(config.get(part), Mapping):
            raise CheckpointError(f"{folder / CONFIG} describes no {part}.")
    tensors = stored_tensors(folder)
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


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """All tensors of the safetensors files of a checkpoint.

    Raises:
        CheckpointError: a file is missing or damaged, or there are only pickled ones.
    """
    if (folder / WEIGHTS).is_file():
        return read_header(folder / WEIGHTS)
    if (folder / INDEX).is_file():
        return _sharded(folder)
    if any(next(folder.glob(pattern), None) for pattern in _PICKLED):
        raise CheckpointError(
            f"{folder} has its weights in pickled files only, which could run any program when "
            f"they are opened. Only {WEIGHTS} is read."
        )
    raise CheckpointError(f"{folder} has no {WEIGHTS}.")


def shard_names(index: Mapping[str, Any]) -> list[str]:
    """The files that an index names, in order.

    Raises:
        ValueError: it is not an index, or names something outside its folder.
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
    """The object in a JSON file.

    Raises:
        CheckpointError: the file is missing or holds none.
    """
    try:
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
        raise CheckpointError(f"{str(error).rstrip('.')}. This helps: {command}") from error
    if found.geometry != model.geometry:
        raise CheckpointError(
            f"{folder} holds another model: {_in_words(found.geometry)}, where {model.name} has "
            f"{_in_words(model.geometry)}. Move it away, then: {command}"
        )
    return found


def _in_words(shape: Geometry) -> str:
    melody = "" if shape.cross_attention else " for melodies"
    return f"{shape.layers} layers of {shape.hidden} with {shape.codebooks} codebooks{melody}"


def _sharded(folder: Path) -> dict[str, StoredTensor]:
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
                f"{tensors[name].path} has a tensor {name} that the configuration does not have."
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
    """Of the pinned commit, and of what `main` was when it was last asked for."""
    if importlib.util.find_spec("huggingface_hub") is None:
        return []
    from huggingface_hub import constants

    folder = f"models--{model.repository.replace('/', '--')}"
    if not Path(constants.HF_HUB_CACHE, folder).is_dir():
        # What would look closer takes as long to import as the rest of a command to start.
        return []
    from huggingface_hub import try_to_load_from_cache

    found = (
        try_to_load_from_cache(model.repository, CONFIG, revision=revision)
        for revision in dict.fromkeys((model.revision, None))
    )
    return list(dict.fromkeys(Path(path).parent for path in found if isinstance(path, str)))
