"""The composer as an engine."""

import numpy as np
import pytest

from services.errors import CancelledError, InvalidRequestError
from services.generation.composer.engine import FACTS, ComposerEngine
from services.generation.engine import Engine, GenerationParams, Rendered


def ask(prompt: str = "trap with 808 bass", seconds: float = 2.0, **fields) -> GenerationParams:
    return GenerationParams(prompt=prompt, duration_seconds=seconds, seed=3, **fields)


def render(params: GenerationParams, progress=lambda *_: None) -> Rendered:
    return ComposerEngine().render(params, progress, lambda: False)


def test_stems_are_returned_only_when_asked_for() -> None:
    plain, split = render(ask()), render(ask(stems=True))
    assert plain.score is not None
    assert plain.stems == {}
    assert list(split.stems) == [part.name for part in plain.score.parts]
    assert plain.audio.tobytes() == split.audio.tobytes()
    total = np.sum([stem.astype(np.float64) for stem in split.stems.values()], axis=0)
    assert np.max(np.abs(total - split.audio)) < 1e-6


def test_a_result_has_the_requested_length_tempo_and_key() -> None:
    rendered = render(ask("house 124 bpm in A minor", 3.21))
    assert isinstance(ComposerEngine(), Engine)
    assert rendered.audio.shape == (FACTS.channels, round(3.21 * FACTS.sample_rate))
    assert (rendered.tempo_bpm, rendered.key, rendered.seed) == (124.0, "A minor", 3)
    assert rendered.score is not None
    assert rendered.bars == rendered.score.bars == 1


def test_the_result_reports_only_what_the_prompt_states() -> None:
    parsed = render(ask("dark house in A minor, no drums", 1.0)).understood
    assert parsed["genre"] == "house"
    assert parsed["requested"] == {
        "genre": "house",
        "key": "A minor",
        "mood": ["dark"],
        "without": ["drums"],
    }
    assert render(ask("phonk", 1.0)).understood["requested"]["style"] == "phonk"


def test_progress_never_decreases() -> None:
    steps: list[tuple[str, float]] = []
    render(ask(), lambda *step: steps.append(step))
    fractions = [fraction for _, fraction in steps]
    assert [stage for stage, _ in steps].count("composing") == 1
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)


def test_a_duration_over_the_maximum_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="at most 600 seconds"):
        render(ask(seconds=600.1))


def test_a_cancelled_request_ends_the_call() -> None:
    with pytest.raises(CancelledError):
        ComposerEngine().render(ask(), lambda *_: None, lambda: True)
