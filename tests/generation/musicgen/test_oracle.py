"""transformers as an engine for comparison."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from services.config import Settings
from services.errors import EngineUnavailableError, InvalidRequestError
from services.generation.engine import GenerationParams
from services.generation.musicgen.catalogue import MODELS
from services.generation.musicgen.oracle import (
    TransformersEngine,
    random_engine,
    transformers_engine,
)

FACTS = MODELS["musicgen-small"].facts


@pytest.fixture(scope="module")
def engine(written: Any) -> TransformersEngine:
    _, checkpoint = written("mono")
    return TransformersEngine(checkpoint.folder, FACTS, torch.device("cpu"))


def test_requests_of_a_batch_have_their_own_lengths(engine: TransformersEngine) -> None:
    asked = [GenerationParams(prompt="a beat", duration_seconds=s, seed=3) for s in (0.5, 0.3)]
    rendered = engine.render_batch(asked)
    assert [one.audio.shape for one in rendered] == [(1, 16_000), (1, 9_600)]
    assert all(one.audio.dtype == np.float32 and one.sample_rate == 32_000 for one in rendered)
    assert engine.facts is FACTS


def test_the_seed_decides_the_audio(engine: TransformersEngine) -> None:
    def audio(seed: int) -> Any:
        asked = GenerationParams(prompt="a beat", duration_seconds=0.3, seed=seed)
        return engine.render(asked, lambda *_: None, lambda: False).audio

    assert np.array_equal(audio(1), audio(1))
    assert not np.array_equal(audio(1), audio(2))


def test_the_codec_stays_in_float32(written: Any) -> None:
    _, checkpoint = written("mono")
    engine = TransformersEngine(checkpoint.folder, FACTS, torch.device("cpu"))
    engine.set_dtype(torch.bfloat16)
    model = engine._model
    assert {value.dtype for value in model.decoder.parameters()} == {torch.bfloat16}
    assert {value.dtype for value in model.audio_encoder.parameters()} == {torch.float32}


def test_melody_models_and_unknown_names_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="cannot have random weights"):
        random_engine("musicgen-melody", Settings())
    with pytest.raises(EngineUnavailableError, match="no published MusicGen model"):
        transformers_engine("musicgen-none", Settings(), random_weights=True)
