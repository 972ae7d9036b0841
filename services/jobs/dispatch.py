"""Dispatches: the attempts that the queue carries."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Dispatch:
    """One attempt at a job, as the queue carries it."""

    generation_id: str
    attempt: int

    @classmethod
    def parse(cls, workflow_id: str) -> Dispatch:
        generation_id, _, attempt = workflow_id.rpartition(":")
        return cls(generation_id, int(attempt))

    @property
    def workflow_id(self) -> str:
        """Its unique name in the queue; a dispatch that is enqueued twice is picked up once."""
        return f"{self.generation_id}:{self.attempt}"
