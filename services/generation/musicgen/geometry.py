"""The shape of a MusicGen decoder, without torch."""

from __future__ import annotations

from dataclasses import dataclass

FRAME_RATE = 50
"""Code frames a second of audio."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """What the decoder of a checkpoint is made of."""

    layers: int
    hidden: int
    heads: int
    ffn: int
    codebooks: int
    """4 for mono, 8 for stereo: left and right of each in turn."""
    codebook_size: int
    """Tokens a codebook, 0..codebook_size-1; `pad_token` is one more embedding and has no logit."""
    channels: int
    cross_attention: bool
    """False for melody checkpoints: their conditioning is a prefix of the sequence."""
    max_positions: int
    """Rows of the checkpoint's table of sinusoids; more can be computed."""

    @property
    def head_size(self) -> int:
        """Values a head."""
        return self.hidden // self.heads

    @property
    def pad_token(self) -> int:
        """What fills the cells of the delay pattern that hold no code."""
        return self.codebook_size

    def __post_init__(self) -> None:
        if self.hidden % self.heads:
            raise ValueError(f"{self.heads} heads do not divide {self.hidden} values.")
        if self.channels not in (1, 2) or self.codebooks % self.channels:
            raise ValueError(f"{self.codebooks} codebooks for {self.channels} channels.")
