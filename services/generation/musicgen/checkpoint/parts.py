"""The text encoder and the codec of a checkpoint, as transformers' modules with their numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch.nn.utils import parametrize
from transformers import EncodecConfig, EncodecModel, T5Config, T5EncoderModel
from transformers.initialization import no_init_weights

from services.errors import CheckpointError
from services.generation.musicgen.checkpoint.stored_weights import SafetensorsWeights, spellings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from services.generation.musicgen.checkpoint.checkpoints import Checkpoint


@dataclass(frozen=True, slots=True)
class Projection:
    """A linear map into the decoder's width."""

    weight: Tensor
    """`[to, from]`."""
    bias: Tensor
    """`[to]`."""

    def __call__(self, states: Tensor) -> Tensor:
        """Map `[..., from]` to `[..., to]`."""
        return torch.nn.functional.linear(states, self.weight, self.bias)


def weights_of(checkpoint: Checkpoint) -> SafetensorsWeights:
    """The tensors of a checkpoint."""
    return SafetensorsWeights(checkpoint.folder, checkpoint.tensors)


def load_text_encoder(checkpoint: Checkpoint, weights: SafetensorsWeights) -> T5EncoderModel:
    """The encoder of T5 with its numbers, float32.

    Raises:
        CheckpointError: a tensor is missing, has another shape, or is one too many.
    """
    model: T5EncoderModel = _empty((T5Config, T5EncoderModel), checkpoint, "text_encoder")
    # One table under two names; without this it would be in memory twice.
    model.encoder.embed_tokens = model.shared
    _fill(model, weights, "text_encoder.")
    return model


def load_codec(checkpoint: Checkpoint, weights: SafetensorsWeights) -> EncodecModel:
    """The EnCodec model with its numbers, float32; its weight norms are multiplied out.

    Raises:
        CheckpointError: as `load_text_encoder`, or it is of a kind that MusicGen has not.
    """
    model: EncodecModel = _empty((EncodecConfig, EncodecModel), checkpoint, "audio_encoder")
    config: Any = model.config
    is_causal = config.use_causal_conv or config.norm_type != "weight_norm"
    if is_causal or config.normalize or config.chunk_length_s or config.audio_channels != 1:
        raise CheckpointError(
            f"The codec in {checkpoint.folder} is not the one that MusicGen was trained with. "
            "Install the model again."
        )
    _fill(model, weights, "audio_encoder.")
    for module in model.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
    return model


def load_projection(
    checkpoint: Checkpoint, weights: SafetensorsWeights, name: str, width: int
) -> Projection | None:
    """The projection of that name; None where what it would map has the decoder's width.

    Raises:
        CheckpointError: it is missing or has another shape.
    """
    hidden = checkpoint.geometry.hidden
    if width == hidden:
        return None
    for part, shape in (("weight", (hidden, width)), ("bias", (hidden,))):
        _check_shape(weights, f"{name}.{part}", shape)
    return Projection(weights.get(f"{name}.weight"), weights.get(f"{name}.bias"))


def _empty(kinds: tuple[Any, Any], checkpoint: Checkpoint, part: str) -> Any:
    """The module of a part of the configuration, with no numbers in it yet."""
    config, module = kinds
    try:
        with no_init_weights():
            return module(config.from_dict(dict(checkpoint.config[part])))
    except (StrictDataclassError, ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1].strip().removeprefix("TypeError: ")
        raise CheckpointError(
            f"The {part} that config.json in {checkpoint.folder} describes cannot be: "
            f"{reason.rstrip('.')}. Install the model again."
        ) from error


def _fill(model: nn.Module, weights: SafetensorsWeights, prefix: str) -> None:
    wanted = model.state_dict()
    for name, value in wanted.items():
        _check_shape(weights, prefix + name, tuple(value.shape))
    known = {spelling for name in wanted for spelling in spellings(prefix + name)}
    if unexpected := sorted(weights.names(prefix) - known):
        raise CheckpointError(
            f"{weights.path(unexpected[0])} has a tensor {unexpected[0]} that the configuration "
            "does not have. Install the model again."
        )
    for name, value in wanted.items():
        value.copy_(weights.get(prefix + name))
    model.train(mode=False).requires_grad_(False)


def _check_shape(weights: SafetensorsWeights, name: str, wanted: tuple[int, ...]) -> None:
    if (found := weights.shape(name)) != wanted:
        raise CheckpointError(
            f"{name} in {weights.path(name)} has the shape {list(found)}, and the configuration "
            f"needs {list(wanted)}. Install the model again."
        )
