"""Encodes prompts to the states that condition the decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer
from torch import nn

from services.errors import CheckpointError
from services.generation.musicgen.checkpoint.checkpoints import TOKENIZER
from services.generation.musicgen.checkpoint.parts import load_projection, load_text_encoder
from services.generation.musicgen.linear import Linear

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor
    from transformers import T5EncoderModel

    from services.generation.musicgen.checkpoint.checkpoints import Checkpoint
    from services.generation.musicgen.checkpoint.parts import Projection
    from services.generation.musicgen.checkpoint.stored_weights import SafetensorsWeights


class TextEncoder:
    """T5 with its tokenizer and the projection to the decoder's width, on the CPU."""

    def __init__(
        self, model: T5EncoderModel, tokenizer: Tokenizer, projection: Projection | None
    ) -> None:
        """Use a model, whose linear layers are replaced by packed ones."""
        _pack_linear_layers(model)
        self._model = model
        self._tokenizer = tokenizer
        self._projection = projection

    @classmethod
    def load(cls, checkpoint: Checkpoint, weights: SafetensorsWeights) -> TextEncoder:
        """Load the text encoder of a checkpoint in float32.

        Raises:
            CheckpointError: a file or tensor is missing, damaged or of another shape.
        """
        tokenizer = _load_tokenizer(checkpoint.folder / TOKENIZER)
        model = load_text_encoder(checkpoint, weights)
        if tokenizer.get_vocab_size() > model.config.vocab_size:
            raise CheckpointError(
                f"{checkpoint.folder / TOKENIZER} has {tokenizer.get_vocab_size()} tokens, and the "
                f"text encoder has {model.config.vocab_size}. Install the model again."
            )
        width = int(model.config.d_model)
        projection = load_projection(checkpoint, weights, "enc_to_dec_proj", width)
        return cls(model, tokenizer, projection)

    def tokenize(self, prompt: str) -> list[int]:
        """Return the token ids of a prompt, with a final </s>."""
        return list(self._tokenizer.encode(prompt).ids)

    @torch.inference_mode()
    def encode(self, prompts: Sequence[str]) -> list[Tensor]:
        """Encode each prompt to float32 `[length, hidden]`, without padding.

        Prompts are not batched: the last bits of a prompt's states, and with them sometimes a token
        of its music, would depend on the other prompts.
        """
        return [self._encode(prompt) for prompt in prompts]

    def _encode(self, prompt: str) -> Tensor:
        ids = torch.tensor([self.tokenize(prompt)], device=self._model.device)
        states: Tensor = self._model(input_ids=ids).last_hidden_state[0]
        return states if self._projection is None else self._projection(states)


class _PackedLinear(nn.Module):
    """Replaces a linear layer of T5; torch's own takes more than twice as long for a prompt."""

    weight = None
    """T5 reads the dtype of a layer's weight, unless there is none."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self._multiply = Linear("fp32", layer.weight.detach())

    def forward(self, states: Tensor) -> Tensor:
        return self._multiply(states)


def _pack_linear_layers(model: T5EncoderModel) -> None:
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Linear):
                setattr(parent, name, _PackedLinear(layer))


def _load_tokenizer(path: Path) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(path))
    # The library raises plain Exception for an invalid file.
    except Exception as error:
        raise CheckpointError(
            f"{path} is not a valid tokenizer ({error}). Install the model again."
        ) from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
