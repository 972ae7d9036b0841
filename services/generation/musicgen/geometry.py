"""The shape of a MusicGen decoder. No torch."""

from __future__ import annotations

from dataclasses import dataclass

FRAME_RATE = 50
"""Code frames per second of audio."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """The sizes of a checkpoint's decoder.

    Raises:
        ValueError: they do not fit together.
    """

    layers: int
    hidden: int
    heads: int
    ffn: int
    codebooks: int
    """4 for mono, 8 for stereo, where left and right alternate."""
    codebook_size: int
    """Tokens of a codebook, 0..codebook_size-1; `pad_token` has an embedding but no logit."""
    channels: int
    cross_attention: bool
    """False for melody checkpoints: their conditioning is a prefix of the sequence."""
    max_positions: int
    """Rows of the checkpoint's table of sinusoids; more can be computed."""

    @property
    def head_size(self) -> int:
        return self.hidden // self.heads

    @property
    def pad_token(self) -> int:
        """The token in cells of the delay pattern that hold no code."""
        return self.codebook_size

    def __post_init__(self) -> None:
        if self.hidden % self.heads:
            raise ValueError(f"{self.heads} heads do not divide {self.hidden} values.")
        if self.channels not in (1, 2) or self.codebooks % self.channels:
            raise ValueError(f"{self.codebooks} codebooks for {self.channels} channels.")
