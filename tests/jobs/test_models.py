"""Requests: defaults, limits and refusals."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cli import generate
from services.errors import InvalidRequestError
from services.generation.engine import SEED_LIMIT, GenerationParams
from services.jobs.models import parse_request


def test_the_defaults_are_those_of_the_contract():
    request = parse_request(prompt="lo-fi beat")
    assert request.model_dump() == {
        "prompt": "lo-fi beat",
        "duration": 16.0,
        "bars": None,
        "loop": None,
        "temperature": 1.0,
        "top_k": 250,
        "top_p": 0.0,
        "cfg_coef": 3.0,
        "model": None,
        "seed": None,
        "melody": None,
        "continue_from": None,
        "stems": False,
        "midi": False,
    }


def test_a_prompt_is_trimmed_and_its_white_space_collapsed():
    assert parse_request(prompt="  lo-fi\n\tbeat ").prompt == "lo-fi beat"


@pytest.mark.parametrize("length", [0, 1, 2, 501, 5000])
def test_a_prompt_outside_3_to_500_characters_is_refused(length):
    with pytest.raises(InvalidRequestError, match=f"3 to 500 characters; this prompt has {length}"):
        parse_request(prompt="x" * length)


@pytest.mark.parametrize("length", [3, 500])
def test_a_prompt_at_the_limits_is_accepted(length):
    assert len(parse_request(prompt="🎹" * length).prompt) == length


@pytest.mark.parametrize("prompt", ["a\x00b beat", "beat \ud83d", "\x1b[31mred"])
def test_a_prompt_with_control_characters_is_refused(prompt):
    with pytest.raises(InvalidRequestError, match="not text"):
        parse_request(prompt=prompt)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("duration", 0), ("duration", -1), ("duration", math.nan), ("duration", math.inf),
        ("duration", 0.99), ("temperature", 0.0), ("temperature", 2.1), ("top_k", -1),
        ("top_k", 501), ("top_p", 1.1), ("cfg_coef", 0.9), ("cfg_coef", 11),
        ("seed", -1), ("seed", SEED_LIMIT), ("seed", 1.5), ("duration", "long"),
        ("bars", 0), ("bars", 513), ("bars", 1.5),
    ],
)  # fmt: skip
def test_a_value_outside_its_range_is_refused_by_name(field, value):
    with pytest.raises(InvalidRequestError, match=f"The {field} "):
        parse_request(prompt="lo-fi beat", **{field: value})


def test_an_unknown_field_is_refused():
    with pytest.raises(InvalidRequestError, match="durations"):
        parse_request(prompt="lo-fi beat", durations=3)


@given(st.text(max_size=600))
def test_any_prompt_is_cleaned_or_refused(text):
    try:
        prompt = parse_request(prompt=text).prompt
    except InvalidRequestError:
        return
    assert 3 <= len(prompt) <= 500
    assert prompt == prompt.strip()
    prompt.encode("utf-8")


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan, math.inf])
def test_engine_parameters_refuse_an_impossible_duration(seconds):
    with pytest.raises(InvalidRequestError, match="duration"):
        GenerationParams(prompt="beat", duration_seconds=seconds, seed=0)


@pytest.mark.parametrize("seed", [-1, SEED_LIMIT])
def test_engine_parameters_refuse_an_impossible_seed(seed):
    with pytest.raises(InvalidRequestError, match="seed"):
        GenerationParams(prompt="beat", duration_seconds=1.0, seed=seed)


def test_help_shows_the_defaults_of_a_request():
    request = parse_request(prompt="lo-fi beat")
    assert {name: getattr(request, name) for name in generate.DEFAULTS} == generate.DEFAULTS
