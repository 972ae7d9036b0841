"""Orders: takes to make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from services.generation.engine import GenerationParams
from services.library.input_names import input_hashes

if TYPE_CHECKING:
    from datetime import datetime

    from services import storage


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A take to make: what the engine renders, and which job and file it is for."""

    generation_id: str
    model: str
    """The engine that renders it."""
    created_at: datetime
    """When the job was accepted, with a time zone."""
    file_path: str
    """The take's name in the store."""
    params: GenerationParams
    midi: bool = False
    """Whether to keep the notes as a MIDI file beside the take."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Field of `params` -> SHA-256 of its input; `fetch_inputs` replaces the field by a path."""

    @classmethod
    def of(cls, generation: storage.Generation) -> Order:
        """Build the order of a job from its row."""
        metadata = generation.get_metadata()
        sampling = {
            name: metadata[name]
            for name in ("temperature", "top_k", "top_p", "cfg_coef")
            if name in metadata
        }
        return cls(
            generation_id=generation.id,
            model=generation.model_name,
            created_at=generation.created_at,
            file_path=generation.file_path,
            params=GenerationParams(
                prompt=generation.prompt,
                duration_seconds=generation.duration_seconds,
                seed=metadata["seed"],
                stems=metadata.get("stems") is True,
                bars=metadata.get("bars"),
                loop=metadata.get("loop", False),
                **sampling,
            ),
            midi=metadata.get("midi") is True,
            inputs=input_hashes(metadata),
        )
