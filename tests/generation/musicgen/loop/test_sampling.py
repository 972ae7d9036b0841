"""Sampling: the distribution of transformers, with reproducible noise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from transformers import (
    ClassifierFreeGuidanceLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from services.errors import InvalidRequestError
from services.generation.musicgen.loop.request import Sampling
from services.generation.musicgen.loop.sampling import (
    SamplingTensors,
    TorchSampler,
    draw,
    guide,
    gumbel_noise,
    keep_top_p,
    random_bits,
)

VOCABULARY = 2048
CODEBOOKS = 4
BITS = 2**64 - 1


def logits_of(seed: int, requests: int = 1) -> torch.Tensor:
    """`[2, requests, codebooks, vocabulary]`."""
    random = torch.Generator().manual_seed(seed)
    return torch.randn(2, requests, CODEBOOKS, VOCABULARY, generator=random) * 3


def drawn(logits: torch.Tensor, sampling: list[Sampling], steps: list[int], **fast: Any) -> Any:
    tensors = SamplingTensors.from_samplings(sampling)
    noise = gumbel_noise(tensors.seed, torch.tensor(steps), *logits.shape[2:])
    return draw(guide(logits, tensors.guidance), tensors, noise, **fast)


samplings = st.builds(
    Sampling,
    seed=st.integers(0, 2**32 - 1),
    guidance=st.floats(1.1, 10),
    temperature=st.floats(0.1, 2),
    top_k=st.sampled_from([0, 1, 2, 50, 250, 500, VOCABULARY]),
    top_p=st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.99, 1.0]),
)


@settings(max_examples=40)
@given(samplings, st.integers(0, 10**6), st.integers(0, 99))
def test_tokens_equal_those_of_transformers_for_the_same_noise(
    sampling: Sampling, step: int, seed: int
) -> None:
    logits = logits_of(seed)
    warpers: list[Any] = [
        ClassifierFreeGuidanceLogitsProcessor(sampling.guidance),
        TemperatureLogitsWarper(sampling.temperature),
    ]
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if 0 < sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    scores: Any = logits.flatten(0, 2)
    for warper in warpers:
        scores = warper(torch.zeros(CODEBOOKS, 1), scores)
    noise = gumbel_noise(torch.tensor([sampling.seed]), torch.tensor([step]), CODEBOOKS, VOCABULARY)
    wanted = (scores + noise[0]).argmax(-1)
    assert drawn(logits, [sampling], [step])[0].tolist() == wanted.tolist()


@settings(max_examples=20)
@given(st.lists(samplings, min_size=2, max_size=4))
def test_a_request_draws_the_same_alone_and_in_a_batch(sampling: list[Sampling]) -> None:
    logits, steps = logits_of(1, len(sampling)), [7 * number for number in range(len(sampling))]
    together = drawn(logits, sampling, steps)
    for number, each in enumerate(sampling):
        alone = drawn(logits[:, number : number + 1], [each], [steps[number]])
        assert alone[0].tolist() == together[number].tolist()


@settings(max_examples=20)
@given(
    st.lists(st.tuples(samplings, st.sampled_from([0, 3, 4, 1000])), min_size=1, max_size=3),
    st.sampled_from([64, VOCABULARY]),
)
def test_a_sampler_with_kept_noise_draws_as_one_without(
    given: list[tuple[Sampling, int]], vocabulary: int
) -> None:
    sampler, sampling = TorchSampler(), [each for each, _ in given]
    for number in range(6):
        logits = logits_of(number, len(given))[..., :vocabulary]
        steps = [first + number for _, first in given]
        assert sampler(logits, sampling, steps).tolist() == drawn(logits, sampling, steps).tolist()


@pytest.mark.parametrize("shapes", [((4, 2048), (4, 64)), ((4, 64), (4, 2048)), ((4, 32), (2, 64))])
@pytest.mark.parametrize("step", [0, 3, 200])
def test_a_sampler_serves_logits_of_one_shape_after_another(shapes: Any, step: int) -> None:
    sampler, sampling = TorchSampler(), [Sampling(seed=9, top_k=0)]
    for codebooks, vocabulary in shapes:
        logits = logits_of(0)[:, :, :codebooks, :vocabulary]
        wanted = drawn(logits, sampling, [step])
        assert sampler(logits, sampling, [step]).tolist() == wanted.tolist()


@settings(max_examples=20)
@given(samplings)
def test_faster_options_do_not_change_the_tokens(sampling: Sampling) -> None:
    logits = logits_of(2)
    fast = {"widest_top_k": sampling.top_k, "any_top_p": 0 < sampling.top_p < 1}
    assert torch.equal(drawn(logits, [sampling], [3]), drawn(logits, [sampling], [3], **fast))


def test_greedy_and_top_1_take_the_greatest() -> None:
    logits = logits_of(3)
    greatest = guide(logits, torch.tensor([3.0])).argmax(-1)
    assert torch.equal(drawn(logits, [Sampling(greedy=True, top_k=5)], [0]), greatest)
    assert torch.equal(drawn(logits, [Sampling(top_k=1)], [0]), greatest)


def test_equal_scores_at_the_edge_of_top_k_all_stay() -> None:
    logits = torch.zeros(2, 1, 1, 6)
    logits[..., 0], logits[..., 5] = 1.0, -1.0
    seen = {int(drawn(logits, [Sampling(top_k=2)], [step])) for step in range(200)}
    assert seen == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(("top_p", "kept"), [(0.5, 1), (0.6, 2), (1e-9, 1)])
def test_top_p_keeps_at_the_edges_what_transformers_keeps(top_p: float, kept: int) -> None:
    scores = torch.tensor([[[0.0, 0.0, -torch.inf]]])
    wanted = TopPLogitsWarper(top_p)(torch.zeros(1, 1), scores[0])
    assert int(wanted.isfinite().sum()) == kept
    got = keep_top_p(scores, torch.tensor([top_p], dtype=torch.float64))
    assert int(got.isfinite().sum()) == kept


def split_mix(state: int) -> int:
    """The finaliser of SplitMix64 in Python's own integers."""
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & BITS
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB & BITS
    return state ^ (state >> 31)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**31), st.integers(0, 7), st.integers(0, 2047))
def test_bits_are_those_of_split_mix(seed: int, step: int, codebook: int, token: int) -> None:
    gamma = 0x9E3779B97F4A7C15
    key = split_mix((split_mix(seed) + step) & BITS)
    key = split_mix((key + codebook * gamma) & BITS)
    bits = random_bits(torch.tensor([seed]), torch.tensor([step]), 8, 2048)
    assert int(bits[0, codebook, token]) & BITS == split_mix((key + (token + 1) * gamma) & BITS)


def test_bits_begin_as_published() -> None:
    # The first outputs of SplitMix64 for state 0, from the test vectors of xoshiro's authors.
    bits = random_bits(torch.tensor([0]), torch.tensor([0]), 1, 3)[0, 0].tolist()
    assert [each & BITS for each in bits] == [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
        0x06C45D188009454F,
    ]


def test_noise_has_the_gumbel_distribution_and_is_finite() -> None:
    noise = gumbel_noise(torch.tensor([1, 2]), torch.tensor([0, 900]), 8, VOCABULARY).double()
    assert noise.isfinite().all()
    assert stats.kstest(noise.flatten().numpy(), "gumbel_r").pvalue > 0.01


def test_extreme_bits_give_finite_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    extremes = torch.tensor([0, -1, 2**63 - 1, -(2**63)])[None, None]
    monkeypatch.setattr(
        "services.generation.musicgen.loop.sampling.random_bits", lambda *_: extremes.clone()
    )
    noise = gumbel_noise(torch.tensor([0]), torch.tensor([0]), 1, 4)
    assert noise.isfinite().all()
    assert noise.min() < -2.8
    assert noise.max() > 16.6


@pytest.mark.parametrize("codebook", [0, 3])
def test_draws_follow_the_softmax(codebook: int) -> None:
    # The seed is fixed, and with it the statistic.
    logits = torch.tensor([2.0, 1.0, 0.5, 0.0, -0.5, -1.0, -2.0, -3.0])
    count = 20_000
    tensors = SamplingTensors.from_samplings([Sampling(seed=42, top_k=0)] * count)
    noise = gumbel_noise(tensors.seed, torch.arange(count), 4, 8)
    tokens = draw(logits.expand(count, 4, 8), tensors, noise, any_top_p=False)
    seen = tokens[:, codebook].bincount(minlength=8).double()
    assert stats.chisquare(seen.numpy(), logits.double().softmax(0).numpy() * count).pvalue > 0.01


def test_top_p_renormalises_what_it_keeps() -> None:
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    tensors = SamplingTensors.from_samplings([Sampling(seed=1, top_k=0, top_p=0.65)] * 8000)
    noise = gumbel_noise(tensors.seed, torch.arange(8000), 1, 4)
    tokens = draw(logits.expand(8000, 1, 4), tensors, noise)
    seen = tokens.flatten().bincount(minlength=4).double()
    assert seen[2:].tolist() == [0, 0]
    assert stats.chisquare(seen[:2].numpy(), [8000 * 4 / 7, 8000 * 3 / 7]).pvalue > 0.01


@pytest.mark.parametrize("other", ["codebook", "step", "seed"])
def test_streams_are_independent(other: str) -> None:
    count = 20_000
    steps = torch.arange(count)
    seeds = torch.full((count,), 7)
    uniform = torch.zeros(count, 2, 4)

    def tokens(seeds: torch.Tensor, steps: torch.Tensor, codebook: int) -> Any:
        return (uniform + gumbel_noise(seeds, steps, 2, 4)).argmax(-1)[:, codebook]

    first = tokens(seeds, steps, 0)
    second = {
        "codebook": lambda: tokens(seeds, steps, 1),
        "step": lambda: tokens(seeds, steps + 1, 0),
        "seed": lambda: tokens(seeds + 1, steps, 0),
    }[other]()
    pairs = (first * 4 + second).bincount(minlength=16).double().numpy()
    assert stats.chisquare(pairs).pvalue > 0.01


@pytest.mark.parametrize(
    "wrong",
    [
        {"seed": -1},
        {"seed": 2**32},
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"guidance": float("inf")},
        {"top_k": -1},
        {"top_p": 1.1},
    ],
)
def test_invalid_sampling_parameters_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError):
        Sampling(**wrong)
