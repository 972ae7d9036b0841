"""Loads the text encoder and the codec of a checkpoint as modules of transformers."""

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
    """A linear map to the decoder's width."""

    weight: Tensor
    """`[out, in]`."""
    bias: Tensor
    """`[out]`."""

    def __call__(self, states: Tensor) -> Tensor:
        """Map `[..., in]` to `[..., out]`."""
        return torch.nn.functional.linear(states, self.weight, self.bias)


def open_weights(checkpoint: Checkpoint) -> SafetensorsWeights:
    return SafetensorsWeights(checkpoint.folder, checkpoint.tensors)


def load_text_encoder(checkpoint: Checkpoint, weights: SafetensorsWeights) -> T5EncoderModel:
    """Load the T5 encoder in float32.

    Raises:
        CheckpointError: a tensor is missing, unexpected or of another shape.
    """
    model: T5EncoderModel = _build((T5Config, T5EncoderModel), checkpoint, "text_encoder")
    # The table has two names; this avoids a second copy in memory.
    model.encoder.embed_tokens = model.shared
    _fill(model, weights, "text_encoder.")
    return model


def load_codec(checkpoint: Checkpoint, weights: SafetensorsWeights) -> EncodecModel:
    """Load the EnCodec model in float32, with weight norms folded into the weights.

    Raises:
        CheckpointError: as `load_text_encoder`, or MusicGen has no codec of this kind.
    """
    model: EncodecModel = _build((EncodecConfig, EncodecModel), checkpoint, "audio_encoder")
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
    """Load a projection; None if its input of `width` values has the decoder's width already.

    Raises:
        CheckpointError: it is missing or has another shape.
    """
    hidden = checkpoint.geometry.hidden
    if width == hidden:
        return None
    for part, shape in (("weight", (hidden, width)), ("bias", (hidden,))):
        _check_shape(weights, f"{name}.{part}", shape)
    return Projection(weights.get(f"{name}.weight"), weights.get(f"{name}.bias"))


def _build(classes: tuple[Any, Any], checkpoint: Checkpoint, part: str) -> Any:
    """Build the module of a part of the configuration, with uninitialised weights."""
    config, module = classes
    try:
        with no_init_weights():
            return module(config.from_dict(dict(checkpoint.config[part])))
    except (StrictDataclassError, ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1].strip().removeprefix("TypeError: ")
        raise CheckpointError(
            f"The {part} in config.json of {checkpoint.folder} is invalid: {reason.rstrip('.')}. "
            "Install the model again."
        ) from error


def _fill(model: nn.Module, weights: SafetensorsWeights, prefix: str) -> None:
    wanted = model.state_dict()
    for name, value in wanted.items():
        _check_shape(weights, prefix + name, tuple(value.shape))
    known = {spelling for name in wanted for spelling in spellings(prefix + name)}
    if unexpected := sorted(weights.names(prefix) - known):
        raise CheckpointError(
            f"{weights.path(unexpected[0])} has a tensor {unexpected[0]}, which the configuration "
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
