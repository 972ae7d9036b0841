"""GET /models: the engines, and which of them can be asked for now."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from services.api.problems import documented
from services.api.state import Api
from services.database import storage_errors
from services.errors import EngineUnavailableError
from services.jobs.living import living_workers

router = APIRouter(tags=["models"])


class ModelInfo(BaseModel):
    """An engine."""

    model_config = ConfigDict(protected_namespaces=())

    name: str = Field(description="What `model` of a request may be.", examples=["composer"])
    version: str = Field(
        description="Another one may make other music of the same seed.", examples=["1"]
    )
    description: str
    licence: str = Field(
        description="SPDX identifier of the licence of what it makes.", examples=["CC0-1.0"]
    )
    sample_rate: int = Field(description="Hz.", examples=[48_000])
    channels: int = Field(examples=[2])
    shortest_seconds: float = Field(examples=[1.0])
    longest_seconds: float = Field(examples=[600.0])
    takes_melody: bool = Field(description="It can follow the melody of an input.")
    takes_continuation: bool = Field(description="It can go on from an input.")
    available: bool = Field(description="Jobs for it are accepted.")
    why_not: str | None = Field(description="What is missing; null when it is available.")
    is_default: bool = Field(description="It is used when a request names none.")
    served: bool = Field(description="A living worker takes its jobs; else they wait for one.")


class ModelList(BaseModel):
    """The engines, the preferred first."""

    models: list[ModelInfo]


@router.get(
    "/models", responses=documented("key-required", "unavailable"), summary="List the models"
)
def list_models(api: Api) -> ModelList:
    """List the engines: what they make, and whether they can be asked for now."""
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
                available=reason is None,
                why_not=reason,
                is_default=facts.name == default,
                served=facts.name in served,
            )
        )
    return ModelList(models=models)
