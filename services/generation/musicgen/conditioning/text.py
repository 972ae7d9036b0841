"""Prompts to the states that the decoder is conditioned on."""

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
    """T5 with its tokenizer and the projection into the decoder's width, on the CPU."""

    def __init__(
        self, model: T5EncoderModel, tokenizer: Tokenizer, projection: Projection | None
    ) -> None:
        """Take the model over: its linear layers are packed."""
        _pack(model)
        self._model = model
        self._tokenizer = tokenizer
        self._projection = projection

    @classmethod
    def load(cls, checkpoint: Checkpoint, weights: SafetensorsWeights) -> TextEncoder:
        """Read it from a checkpoint, float32.

        Raises:
            CheckpointError: something is missing, damaged or of another shape.
        """
        tokenizer = _load_tokenizer(checkpoint.folder / TOKENIZER)
        model = load_text_encoder(checkpoint, weights)
        if tokenizer.get_vocab_size() > model.config.vocab_size:
            raise CheckpointError(
                f"{checkpoint.folder / TOKENIZER} has {tokenizer.get_vocab_size()} tokens, and the "
                f"text encoder knows {model.config.vocab_size}. Install the model again."
            )
        width = int(model.config.d_model)
        projection = load_projection(checkpoint, weights, "enc_to_dec_proj", width)
        return cls(model, tokenizer, projection)

    def tokens(self, prompt: str) -> list[int]:
        """The token ids of a prompt, closed by </s>."""
        return list(self._tokenizer.encode(prompt).ids)

    @torch.inference_mode()
    def encode(self, prompts: Sequence[str]) -> list[Tensor]:
        """Float32 `[length, hidden]` of each prompt, without padding.

        Each goes through the encoder alone: in a batch the last bits of a prompt's states would
        depend on its neighbours, and with them now and then a token of its music.
        """
        return [self._encode(prompt) for prompt in prompts]

    def _encode(self, prompt: str) -> Tensor:
        ids = torch.tensor([self.tokens(prompt)], device=self._model.device)
        states: Tensor = self._model(input_ids=ids).last_hidden_state[0]
        return states if self._projection is None else self._projection(states)


class _PackedLinear(nn.Module):
    """Stands for a linear layer of T5: torch's own takes more than twice the time for a prompt."""

    weight = None
    """Nothing whose precision T5 could ask for."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self._multiply = Linear("fp32", layer.weight.detach())

    def forward(self, states: Tensor) -> Tensor:
        return self._multiply(states)


def _pack(model: T5EncoderModel) -> None:
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Linear):
                setattr(parent, name, _PackedLinear(layer))


def _load_tokenizer(path: Path) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(path))
    # The library has no class of its own for a file that it cannot use.
    except Exception as error:
        raise CheckpointError(
            f"{path} is no tokenizer that can be read ({error}). Install the model again."
        ) from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
