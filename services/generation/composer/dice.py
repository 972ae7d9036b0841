"""Seeded chance: one independent stream for every concern of a piece."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


class Dice(random.Random):
    """A stream that depends on the seed and the names of what it decides, and on nothing else.

    Streams with different names share nothing, so a longer piece, or one more part, leaves every
    other decision as it was. `random.Random` hashes a string seed with SHA-512: the stream is the
    same in every process and on every machine.
    """

    def __new__(cls, *_path: int | str) -> Dice:
        """Take any number of names (the base class takes one argument)."""
        return super().__new__(cls)

    def __init__(self, *path: int | str) -> None:
        super().__init__("/".join(map(str, path)))

    def chance(self, probability: float) -> bool:
        """True that often."""
        return self.random() < probability

    def pick(self, weights: Mapping[T, float]) -> T:
        """One of the keys, as often as its weight says."""
        return self.choices(list(weights), weights=list(weights.values()))[0]
