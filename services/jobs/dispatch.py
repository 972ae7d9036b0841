"""What the queue carries."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Dispatch:
    """One attempt at a generation, as the queue carries it."""

    generation_id: str
    attempt: int

    @property
    def workflow_id(self) -> str:
        """Its name in the queue; given out once, so that one dispatch never becomes two."""
        return f"{self.generation_id}:{self.attempt}"
