"""Seeded random streams: an independent one for each decision of a piece."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


class RandomStream(random.Random):
    """A stream that depends only on the seed and the names given to it.

    Streams with different names are independent: a longer piece, or one more part, leaves every
    other decision unchanged. `random.Random` hashes a string seed with SHA-512, so a stream is the
    same in every process and on every machine.
    """

    def __new__(cls, *_path: int | str) -> RandomStream:
        # The base class takes one argument only.
        return super().__new__(cls)

    def __init__(self, *path: int | str) -> None:
        super().__init__("/".join(map(str, path)))

    def chance(self, probability: float) -> bool:
        return self.random() < probability

    def weighted_choice(self, weights: Mapping[T, float]) -> T:
        """Return one of the keys, drawn in proportion to the weights."""
        return self.choices(list(weights), weights=list(weights.values()))[0]
