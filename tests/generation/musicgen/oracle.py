"""transformers as the reference: its codes, logits and conditioning for a request."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from services.generation.musicgen.decoders.torch_decoder import TorchDecoder
from services.generation.musicgen.loop.request import Conditioning, Sampling
from services.generation.musicgen.loop.sampling import gumbel_noise
from services.generation.weights.weights import StateDictWeights
from tests.generation.musicgen.tiny import VOCABULARY, geometry_of

LONGEST_LAG = 3


@dataclass
class Reference:
    """One run of `generate` for a batch."""

    codes: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    """`[batch, codebooks, frames]`."""
    logits: list[torch.Tensor] = field(default_factory=list)
    """One per step, `[2, batch, codebooks, vocabulary]`, conditional first."""
    conditioning: list[Conditioning] = field(default_factory=list)
    """One per request, without padding."""


def prompts(lengths: list[int], seed: int = 1) -> dict[str, torch.Tensor]:
    """Return random token ids and their mask, padded to the longest."""
    random = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths))
    mask = (torch.arange(shape[1]) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(3, VOCABULARY - 10, shape, generator=random) * mask
    return {"input_ids": ids, "attention_mask": mask}


def generate(
    model: Any,
    inputs: dict[str, Any],
    frames: int,
    prefix: torch.Tensor | None = None,
    **settings: Any,
) -> Reference:
    """Run transformers' `generate` from `[batch, codebooks, known]` codes to so many frames."""
    reference = Reference()
    decoder, codec = model.decoder, model.audio_encoder
    batch, codebooks = len(inputs["input_ids"]), decoder.config.num_codebooks
    heard: list[torch.Tensor] = []

    def listen(codes: torch.Tensor, **_: Any) -> Any:
        heard.append(codes[0])
        return SimpleNamespace(audio_values=torch.zeros(batch, 1, 1))

    def watch(*args: Any, **kwargs: Any) -> Any:
        if not reference.conditioning:
            reference.conditioning = _conditioning(batch, **kwargs)
        output = type(decoder).forward(decoder, *args, **kwargs)
        reference.logits.append(output.logits[:, -1].view(2, batch, codebooks, -1).clone())
        return output

    known = 0 if prefix is None else prefix.shape[-1]
    if prefix is not None:
        inputs = inputs | {"decoder_input_ids": prefix.reshape(batch * codebooks, known)}
    try:
        codec.decode, decoder.forward = listen, watch
        model.generate(
            **inputs,
            **({"do_sample": False} | settings),
            max_new_tokens=frames - known + LONGEST_LAG,
        )
    finally:
        del codec.decode, decoder.forward
    reference.codes = heard[0] if len(heard) == 1 else torch.stack(heard, 2).flatten(1, 2)
    # transformers 5.23 runs the first step of MusicGen twice.
    reference.logits = reference.logits[-(frames - known + LONGEST_LAG) :]
    return reference


def _conditioning(
    batch: int,
    encoder_hidden_states: torch.Tensor,
    encoder_attention_mask: torch.Tensor | None = None,
    **_: Any,
) -> list[Conditioning]:
    conditional, unconditional = encoder_hidden_states.view(
        2, batch, *encoder_hidden_states.shape[1:]
    )
    if encoder_attention_mask is None:
        return [Conditioning(*pair) for pair in zip(conditional, unconditional, strict=True)]
    lengths = encoder_attention_mask[:batch].sum(1).tolist()
    return [
        Conditioning(states[:length]) for states, length in zip(conditional, lengths, strict=True)
    ]


def decoder_of(
    model: Any, slots: int = 1, positions: int = 80, linear: Any = "fp32"
) -> TorchDecoder:
    """Return our decoder with the weights of a transformers model."""
    weights = StateDictWeights(model.state_dict())
    return TorchDecoder(weights, geometry_of(model.config), slots, positions, linear)


class Noise(LogitsProcessor):
    """Adds the noise of our sampler to the scores of transformers."""

    def __init__(self, seeds: list[int], codebooks: int, start: int = 0) -> None:
        self._seeds, self._codebooks, self._start = torch.tensor(seeds), codebooks, start

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        steps = torch.full_like(self._seeds, self._start + input_ids.shape[-1] - 1)
        noise = gumbel_noise(self._seeds, steps, self._codebooks, scores.shape[-1])
        return scores + noise.view_as(scores)


class AfterGuidance(LogitsProcessorList):
    """Processors that run after the guidance, which transformers would append."""

    def append(self, processor: Any) -> None:
        self.insert(0, processor)


def drawing(sampling: list[Sampling], codebooks: int, start: int = 0) -> dict[str, Any]:
    """Return settings of `generate` with which its greatest logit is our draw."""
    first = sampling[0]
    warpers = [
        TemperatureLogitsWarper(first.temperature),
        TopKLogitsWarper(first.top_k),
        TopPLogitsWarper(first.top_p),
        Noise([each.seed for each in sampling], codebooks, start),
    ]
    return {"logits_processor": AfterGuidance(warpers), "guidance_scale": first.guidance}
