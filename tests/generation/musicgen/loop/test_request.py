"""Requests of the decode loop, and whether they fit a decoder."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
import torch

from services.errors import InvalidRequestError
from services.generation.engine import SEED_LIMIT
from services.generation.musicgen.catalogue import MODELS
from services.generation.musicgen.loop.request import (
    Conditioning,
    DecodeRequest,
    Sampling,
    check_fits,
)

MONO = MODELS["musicgen-small"].geometry
STEREO = MODELS["musicgen-stereo-small"].geometry
STATES = torch.zeros(3, MONO.hidden)


def request(**fields: Any) -> DecodeRequest:
    return DecodeRequest(**({"conditioning": (Conditioning(STATES),), "frames": 10} | fields))


def test_a_request_without_prefix_has_no_known_frames() -> None:
    assert request().prefix_frames == 0
    assert request(prefix=np.zeros((4, 9), dtype=np.int64)).prefix_frames == 9


def test_a_request_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        request().frames = 5  # type: ignore[misc]


@pytest.mark.parametrize("frames", [0, -1, 9, 8])
def test_a_request_needs_a_frame_to_draw(frames: int) -> None:
    prefix = np.zeros((4, 9), dtype=np.int64) if frames > 0 else None
    with pytest.raises(InvalidRequestError, match=rf"^{frames} frames cannot continue (0|9)\. Ask"):
        request(frames=frames, prefix=prefix)


def test_a_fitting_request_is_accepted() -> None:
    prefix = np.full((4, 2), MONO.codebook_size - 1)
    check_fits(request(prefix=prefix), MONO)
    check_fits(request(conditioning=(Conditioning(STATES, STATES.clone()),)), MONO)
    check_fits(request(prefix=np.zeros((4, 0), dtype=np.int64)), MONO)


def test_every_conditioning_is_checked() -> None:
    conditioning = (Conditioning(STATES), Conditioning(STATES[:, :-1]))
    with pytest.raises(InvalidRequestError, match=r"shapes \(3, 1023\) and .*needs \(length, 1024"):
        check_fits(request(conditioning=conditioning), MONO)


def test_a_prefix_of_another_model_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="have 4 codebooks; this model has 8"):
        check_fits(request(prefix=np.zeros((4, 2), dtype=np.int64)), STEREO)


@pytest.mark.parametrize(
    "edge",
    [
        {"seed": 0},
        {"seed": SEED_LIMIT - 1},
        {"temperature": 1e-6},
        {"guidance": -2.0},
        {"top_k": 0},
        {"top_p": 1.0},
    ],
)
def test_extreme_sampling_parameters_are_accepted(edge: dict[str, Any]) -> None:
    sampling = Sampling(**edge)
    assert all(getattr(sampling, name) == value for name, value in edge.items())
