"""GET /models: the models, and which of them are available."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from services.api.problems import describe_problems
from services.api.state import Api
from services.database import storage_errors
from services.errors import EngineUnavailableError
from services.jobs.living import living_workers

router = APIRouter(tags=["models"])


class ModelInfo(BaseModel):
    """A model and its capabilities."""

    model_config = ConfigDict(protected_namespaces=())

    name: str = Field(description="For `model` of a request.", examples=["composer"])
    version: str = Field(
        description="Other versions may give other music for the same seed.", examples=["1"]
    )
    description: str
    licence: str = Field(
        description="SPDX identifier of the licence of the generated music.", examples=["CC0-1.0"]
    )
    sample_rate: int = Field(description="Hz.", examples=[48_000])
    channels: int = Field(examples=[2])
    shortest_seconds: float = Field(examples=[1.0])
    longest_seconds: float = Field(examples=[600.0])
    takes_melody: bool = Field(description="Whether it can follow the melody of an input.")
    takes_continuation: bool = Field(description="Whether it can continue an input.")
    has_parts: bool = Field(description="Whether it can keep stems and MIDI.")
    available: bool = Field(description="Whether jobs for it are accepted.")
    why_not: str | None = Field(description="What it lacks; null if it is available.")
    is_default: bool = Field(description="Whether requests without a model use it.")
    served: bool = Field(description="Whether a worker runs its jobs; otherwise they wait for one.")


class ModelList(BaseModel):
    """The models, preferred first."""

    models: list[ModelInfo]


@router.get(
    "/models", responses=describe_problems("key-required", "unavailable"), summary="List the models"
)
def list_models(api: Api) -> ModelList:
    """List the models, their capabilities, and whether they are available."""
    with storage_errors():
        living = living_workers(api.settings.worker_ttl_seconds)
    served = {model for worker in living if not worker.draining for model in worker.models}
    registry = api.service.registry
    try:
        default = registry.resolve(api.settings.model_name).facts.name
    except EngineUnavailableError:
        default = None
    models = []
    for entry in registry:
        facts, reason = entry.facts, entry.why_unavailable()
        models.append(
            ModelInfo(
                name=facts.name,
                version=facts.version,
                description=facts.description,
                licence=facts.output_licence,
                sample_rate=facts.sample_rate,
                channels=facts.channels,
                shortest_seconds=facts.shortest_seconds,
                longest_seconds=facts.longest_seconds,
                takes_melody=facts.takes_melody,
                takes_continuation=facts.takes_continuation,
                has_parts=facts.has_parts,
                available=reason is None,
                why_not=None if reason is None else api.settings.hide_paths(reason),
                is_default=facts.name == default,
                served=facts.name in served,
            )
        )
    return ModelList(models=models)
