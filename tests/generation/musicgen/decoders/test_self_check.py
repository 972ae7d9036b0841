"""The check of a quantised decoder at load."""

import dataclasses
import weakref
from functools import partial

import pytest
import torch

from services.errors import EngineUnavailableError
from services.generation.musicgen.checkpoint.random_weights import RandomWeights
from services.generation.musicgen.decoders.native.decoder import NativeDecoder
from services.generation.musicgen.decoders.self_check import (
    ERROR_LIMIT,
    KL_LIMIT,
    QuantisationError,
    reference_logits,
    self_check,
)
from services.generation.weights.weights import StateDictWeights
from tests.generation.musicgen.decoders.native.test_decoder import (
    apart,
    draw_states,
    draw_tokens,
    native,
    of_transformers,
)
from tests.generation.musicgen.decoders.test_device_decoder import GEOMETRY
from tests.generation.musicgen.tiny import geometry_of, tiny_melody_model, tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def weights(model):
    return StateDictWeights(model.state_dict())


class Changed:
    """Weights of which those with `part` in their name are changed."""

    def __init__(self, weights, part, change):
        self._weights, self._part, self._change = weights, part, change

    def get(self, name):
        tensor = self._weights.get(name)
        return self._change(tensor) if self._part in name else tensor

    def shape(self, name):
        return self._weights.shape(name)


def quantised(weights):
    return NativeDecoder(weights, GEOMETRY, 1, 64, threads=1)


@pytest.mark.parametrize("build", [tiny_model, partial(tiny_model, stereo=True), tiny_melody_model])
def test_reference_logits_are_those_of_transformers(build):
    model = build()
    geometry, weights = geometry_of(model.config), StateDictWeights(model.state_dict())
    states = [draw_states(3), draw_states(9, seed=1)]
    tokens = [draw_tokens(length, length, geometry.codebooks) for length in (20, 5)]
    found = reference_logits(weights, geometry, states, tokens)
    for logits, state, token in zip(found, states, tokens, strict=True):
        assert apart(logits, of_transformers(model.decoder, state, token)) < 1e-5


@native
def test_int8_passes_and_its_report_is_the_same_each_time(weights):
    decoder = quantised(weights)
    first, again = self_check(decoder, weights), self_check(decoder, weights)
    assert 0 < first.kl < 0.01 < KL_LIMIT
    assert 0.01 < first.error < 0.05 < ERROR_LIMIT
    assert 0.8 < first.agreement <= 1
    assert first.seconds > 0
    assert (again.kl, again.agreement) == (first.kl, first.agreement)


@native
def test_float32_has_no_divergence(weights):
    report = self_check(NativeDecoder(weights, GEOMETRY, 1, 64, "fp32", threads=1), weights)
    assert abs(report.kl) < 1e-6
    assert report.agreement > 0.99


@native
def test_a_decoder_with_a_prefix_is_checked_like_any_other():
    model = tiny_melody_model()
    weights, geometry = StateDictWeights(model.state_dict()), geometry_of(model.config)
    decoder = NativeDecoder(weights, geometry, 1, 64, threads=1)
    assert 0 < self_check(decoder, weights).kl < 0.01


@native
def test_the_check_can_use_given_conditioning(weights):
    decoder = quantised(weights)
    given = self_check(decoder, weights, [draw_states(30, seed=4)])
    assert 0 < given.kl < KL_LIMIT
    assert given.kl != self_check(decoder, weights).kl


@native
@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("proj", lambda tensor: (tensor * 10).round() / 10),
        ("layers.1.fc1", lambda tensor: -tensor),
        ("lm_heads.2", lambda tensor: tensor.roll(1, 0)),
        ("lm_heads", lambda tensor: tensor * float("nan")),
        ("layers.0.encoder_attn.v", torch.zeros_like),
    ],
)
def test_a_decoder_with_wrong_logits_is_refused_with_the_numbers(weights, part, change):
    decoder = quantised(Changed(weights, part, change))
    with pytest.raises(QuantisationError, match=r"KL divergence \S+ nats .* error \S+ ") as caught:
        self_check(decoder, weights)
    assert isinstance(caught.value, EngineUnavailableError)
    assert not caught.value.report.error <= ERROR_LIMIT


@native
def test_a_checkpoint_with_nan_is_refused(weights):
    broken = Changed(weights, "fc2", lambda tensor: tensor * float("nan"))
    with pytest.raises(QuantisationError, match="KL divergence nan"):
        self_check(quantised(broken), broken)


class Counted(RandomWeights):
    """Weights that count how many of their values are in memory."""

    alive = most = 0

    def get(self, name):
        tensor = super().get(name)
        self.alive += tensor.numel()
        self.most = max(self.most, self.alive)
        weakref.finalize(tensor, self._gone, tensor.numel())
        return tensor

    def _gone(self, count):
        self.alive -= count


@native
def test_one_layer_is_in_memory_at_a_time():
    deep = dataclasses.replace(GEOMETRY, layers=8, codebook_size=64)
    weights = Counted(deep)
    self_check(NativeDecoder(weights, deep, 1, 64, threads=1), weights)
    layer = (8 * deep.hidden + 2 * deep.ffn) * deep.hidden
    assert layer <= weights.most < 2 * layer
