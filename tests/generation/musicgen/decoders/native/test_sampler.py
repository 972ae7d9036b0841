"""Sampling in C, compared with PyTorch."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from services.generation.musicgen.decoders.native.library import NativeUnavailableError
from services.generation.musicgen.decoders.native.sampler import NativeSampler
from services.generation.musicgen.loop.request import Sampling
from services.generation.musicgen.loop.sampling import TorchSampler
from tests.generation.musicgen.loop.test_sampling import CODEBOOKS, VOCABULARY, logits_of, samplings

try:
    NativeSampler()
except NativeUnavailableError as error:
    pytest.skip(str(error), allow_module_level=True)

requests = st.lists(
    st.tuples(samplings, st.booleans(), st.integers(0, 2**31)), min_size=1, max_size=4
)


def with_greed(given):
    sampled = [replace(sampling, greedy=is_greedy) for sampling, is_greedy, _ in given]
    return sampled, [step for _, _, step in given]


def both_draw(logits, sampled, steps):
    in_c = NativeSampler()(logits, sampled, steps)
    return in_c.tolist() == TorchSampler()(logits, sampled, steps).tolist()


@given(requests, st.integers(0, 99))
def test_c_and_pytorch_draw_the_same_tokens(given, seed):
    sampled, steps = with_greed(given)
    logits = logits_of(seed, len(given))
    assert both_draw(logits, sampled, steps)


@settings(max_examples=40)
@given(st.integers(0, 99), st.integers(0, 99), st.integers(1, VOCABULARY))
def test_logits_equal_to_the_kth_are_kept(seed, step, top_k):
    logits = logits_of(seed).round()
    sampled = [Sampling(seed=seed, top_k=top_k)]
    assert both_draw(logits, sampled, [step])


@pytest.mark.parametrize(("top_p", "kept"), [(0.5, {1}), (0.6, {0, 1}), (1e-9, {1})])
def test_top_p_keeps_at_the_edges_what_pytorch_keeps(top_p, kept):
    logits = torch.tensor([0.0, 0.0, -99.0]).expand(2, 1, 1, 3)
    sampled = [Sampling(top_p=top_p, top_k=0, guidance=1.0)]
    for sampler in (NativeSampler(), TorchSampler()):
        assert {int(sampler(logits, sampled, [step])[0, 0]) for step in range(60)} == kept


def test_zero_and_negative_zero_are_equal():
    logits = torch.full((2, 1, 1, 6), -1.0)
    logits[..., 1:4] = torch.tensor([0.0, -0.0, 0.0])
    sampled = [Sampling(top_k=1, guidance=1.0)]
    native = NativeSampler()
    assert {int(native(logits, sampled, [step])[0, 0]) for step in range(100)} == {1, 2, 3}


@pytest.mark.parametrize("odd", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(top_p=0.5), Sampling(greedy=True)])
@pytest.mark.parametrize("some", [slice(None), slice(0, None, 3)])
def test_nan_and_infinite_logits_give_valid_tokens(odd, sampling, some):
    logits = logits_of(1)
    logits[..., some] = odd
    tokens = NativeSampler()(logits, [sampling], [0])
    assert tokens.shape == (1, CODEBOOKS)
    assert ((tokens >= 0) & (tokens < VOCABULARY)).all()


def test_logits_need_not_be_contiguous():
    logits = logits_of(1, 3)
    turned = logits.transpose(1, 2).contiguous().transpose(1, 2)
    sampled = [Sampling(seed=seed) for seed in range(3)]
    assert not turned.is_contiguous()
    native = NativeSampler()
    assert np.array_equal(native(turned, sampled, [0] * 3), native(logits, sampled, [0] * 3))
