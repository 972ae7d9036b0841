"""The decoder in C, compared with transformers, with itself, and with a reference of any shape."""

import dataclasses
import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from services.errors import CheckpointError
from services.generation.musicgen.checkpoint.random_weights import RandomWeights
from services.generation.musicgen.decoders.native.decoder import NativeDecoder
from services.generation.musicgen.decoders.native.library import (
    NativeUnavailableError,
    levels,
    library,
)
from services.generation.musicgen.decoders.self_check import reference_logits
from services.generation.musicgen.decoders.torch_decoder import TorchDecoder
from services.generation.musicgen.geometry import Geometry
from services.generation.weights.weights import StateDictWeights
from tests.conftest import LIMIT_SECONDS
from tests.generation.musicgen.tiny import geometry_of, tiny_melody_model, tiny_model

try:
    library()
    WHY_NOT_NATIVE = None
except NativeUnavailableError as error:
    WHY_NOT_NATIVE = str(error)
native = pytest.mark.skipif(WHY_NOT_NATIVE is not None, reason=str(WHY_NOT_NATIVE))
pytestmark = native

EXACT = 1e-5
"""Relative to the greatest logit: the effect of another order of additions in float32."""
FORMATS = ["fp32", "int8"]
LEVELS = [] if WHY_NOT_NATIVE else list(levels())
STEPS = 20


def draw_states(length, seed=0, hidden=64):
    return torch.randn(length, hidden, generator=torch.Generator().manual_seed(seed))


def draw_tokens(length, seed=0, codebooks=4, size=2048):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, size + 1, (codebooks, length), generator=generator)


def steps(decoder, slot, tokens, first=0):
    """Return logits `[2, length, codebooks, size]`, computed step by step."""
    taken = [
        decoder.step([slot], tokens[None, :, t], [first + t])[:, 0] for t in range(tokens.shape[1])
    ]
    return torch.stack(taken, 1)


@torch.inference_mode()
def of_transformers(decoder, states, tokens, unconditional=None):
    """Return the same logits from transformers' decoder, teacher-forced."""
    codebooks, length = tokens.shape
    both = torch.stack(
        [states, torch.zeros_like(states) if unconditional is None else unconditional]
    )
    ids = tokens.expand(2, -1, -1).reshape(2 * codebooks, length)
    logits = decoder(input_ids=ids, encoder_hidden_states=both, use_cache=False).logits
    return logits.view(2, codebooks, -1, logits.shape[-1])[:, :, -length:].transpose(1, 2)


def apart(found, wanted):
    return float((found - wanted).abs().max() / wanted.abs().max())


def divergence(found, wanted):
    found, wanted = found.log_softmax(-1), wanted.log_softmax(-1)
    return float((wanted.exp() * (wanted - found)).sum(-1).mean())


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def make(model):
    geometry = geometry_of(model.config)

    def make(weights="fp32", *, slots=3, positions=150, threads=1, **options):
        return NativeDecoder(
            StateDictWeights(model.state_dict()),
            geometry,
            slots,
            positions,
            weights,
            threads,
            **options,
        )

    return make


@pytest.mark.parametrize("level", LEVELS)
def test_float32_is_exact_on_every_level(model, make, level):
    states, tokens = draw_states(9), draw_tokens(STEPS)
    decoder = make(level=level, threads=2)
    assert decoder.admit(1, states) == 0
    assert apart(steps(decoder, 1, tokens), of_transformers(model.decoder, states, tokens)) < EXACT


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("length", [1, 7, 8, 9])
def test_int8_is_close_on_every_level(model, make, level, length):
    # Up to 8 states of this model are folded into the weights.
    states, tokens = draw_states(length), draw_tokens(STEPS)
    decoder = make("int8", level=level, threads=2)
    decoder.admit(1, states)
    found, wanted = steps(decoder, 1, tokens), of_transformers(model.decoder, states, tokens)
    assert 1e-4 < apart(found, wanted) < 0.03
    assert divergence(found, wanted) < 1e-3


def test_levels_multiply_int8_to_the_same_integers(make):
    # Only float rounding may differ, which can flip the last bit of an input.
    found = []
    for level in LEVELS:
        decoder = make("int8", level=level)
        decoder.admit(0, draw_states(7))
        found.append(steps(decoder, 0, draw_tokens(5)))
    assert all(apart(each, found[0]) < 2e-3 for each in found)


def test_stereo_is_exact():
    model = tiny_model(stereo=True)
    decoder = NativeDecoder(
        StateDictWeights(model.state_dict()), geometry_of(model.config), 1, 30, "fp32", threads=1
    )
    states, tokens = draw_states(3), draw_tokens(6, codebooks=8)
    decoder.admit(0, states)
    assert apart(steps(decoder, 0, tokens), of_transformers(model.decoder, states, tokens)) < EXACT


@pytest.mark.parametrize("unconditional", [None, draw_states(45, seed=5)], ids=["zeros", "silence"])
def test_a_decoder_with_a_prefix_is_exact(unconditional):
    model = tiny_melody_model()
    states, tokens = draw_states(45), draw_tokens(STEPS)
    weights = StateDictWeights(model.state_dict())
    decoder = NativeDecoder(weights, geometry_of(model.config), 2, 100, "fp32", threads=1)
    assert decoder.admit(1, states, unconditional) == 45
    wanted = of_transformers(model.decoder, states, tokens, unconditional)
    assert apart(steps(decoder, 1, tokens, first=45), wanted) < EXACT
    decoder.prefill(1, tokens[:, :-1])
    found = decoder.step([1], tokens[None, :, -1], [45 + STEPS - 1])[:, 0]
    assert apart(found, wanted[:, -1]) < EXACT


def test_the_unconditional_row_may_have_a_prefix_of_its_own():
    model = tiny_melody_model()
    weights, geometry = StateDictWeights(model.state_dict()), geometry_of(model.config)
    given = draw_states(45), draw_states(45).flip(0)
    decoders = (
        NativeDecoder(weights, geometry, 1, 100, "fp32", threads=1),
        TorchDecoder(weights, geometry, 1, 100),
    )
    found, wanted = (
        (decoder.admit(0, *given), steps(decoder, 0, draw_tokens(3), first=45))
        for decoder in decoders
    )
    assert found[0] == wanted[0] == 45
    assert apart(found[1], wanted[1]) < EXACT


@pytest.mark.parametrize("length", [1, 64, 65, 200])
def test_a_prompt_may_be_longer_than_one_block_of_rows(model, make, length):
    states, tokens = draw_states(length), draw_tokens(2)
    decoder = make(positions=10)
    decoder.admit(0, states)
    assert apart(steps(decoder, 0, tokens), of_transformers(model.decoder, states, tokens)) < EXACT


@pytest.mark.parametrize("weights", FORMATS)
@pytest.mark.parametrize("length", [1, 31, 33, 100])
def test_prefill_equals_steps_bitwise(make, weights, length):
    decoder, tokens = make(weights), draw_tokens(length + 1)
    decoder.admit(0, draw_states(5))
    wanted = steps(decoder, 0, tokens)[:, -1]
    decoder.admit(2, draw_states(5))
    decoder.prefill(2, tokens[:, :-1])
    assert torch.equal(decoder.step([2], tokens[None, :, -1], [length])[:, 0], wanted)


@pytest.mark.parametrize("weights", FORMATS)
@settings(max_examples=5)
@given(data=st.data())
def test_logits_do_not_depend_on_other_slots(make, weights, data):
    decoder = make(weights, slots=5, positions=40, threads=data.draw(st.integers(1, 2)))
    tokens = [draw_tokens(12, seed) for seed in range(5)]
    alone = []
    for slot in range(5):
        decoder.admit(slot, draw_states(1 + 4 * slot, slot))
        alone.append(steps(decoder, slot, tokens[slot]))
    for slot in range(5):
        decoder.admit(slot, draw_states(1 + 4 * slot, slot))
    at = [0] * 5
    while waiting := [slot for slot in range(5) if at[slot] < 12]:
        some = data.draw(st.lists(st.sampled_from(waiting), unique=True, min_size=1))
        fed = torch.stack([tokens[slot][:, at[slot]] for slot in some])
        logits = decoder.step(some, fed, [at[slot] for slot in some])
        for number, slot in enumerate(some):
            assert torch.equal(logits[:, number], alone[slot][:, at[slot]])
            at[slot] += 1


@pytest.mark.parametrize("weights", FORMATS)
def test_a_slot_keeps_nothing_of_its_last_prompt(make, weights):
    decoder, tokens = make(weights), draw_tokens(3)
    decoder.admit(0, draw_states(4))
    wanted = steps(decoder, 0, tokens)
    decoder.admit(0, draw_states(90, seed=1) * 100)
    decoder.prefill(0, draw_tokens(100, seed=1))
    decoder.admit(0, draw_states(4))
    assert torch.equal(steps(decoder, 0, tokens), wanted)


@settings(max_examples=10)
@given(
    head_size=st.sampled_from([16, 32, 48, 64, 80, 128]),
    pairs=st.integers(1, 3),
    ffn=st.integers(1, 9).map(lambda blocks: 32 * blocks),
    codebooks=st.sampled_from([1, 2, 4]),
    codebook_size=st.sampled_from([32, 96]),
    cross_attention=st.booleans(),
    length=st.integers(1, 40),
)
@pytest.mark.parametrize(("weights", "tolerance"), [("fp32", EXACT), ("int8", 0.1)])
def test_logits_are_right_for_any_shape(
    weights, tolerance, head_size, pairs, ffn, codebooks, codebook_size, cross_attention, length
):
    hidden = head_size * 2 * pairs
    geometry = Geometry(
        layers=1,
        hidden=hidden,
        heads=2 * pairs,
        ffn=ffn,
        codebooks=codebooks,
        codebook_size=codebook_size,
        channels=1,
        cross_attention=cross_attention,
        max_positions=64,
    )
    source = RandomWeights(geometry)
    states, tokens = draw_states(length, hidden=hidden), draw_tokens(4, 0, codebooks, codebook_size)
    decoder = NativeDecoder(source, geometry, 1, 50, weights, threads=1)
    found = steps(decoder, 0, tokens, first=decoder.admit(0, states))
    wanted = reference_logits(source, geometry, [states], [tokens])[0]
    assert apart(found, wanted) < tolerance


def test_arguments_out_of_range_are_refused_and_change_nothing(make):
    decoder, token = make(slots=2, positions=8), draw_tokens(1).t()
    decoder.admit(0, draw_states(3))
    wanted = decoder.step([0], token, [0])
    outside = [
        lambda: decoder.step([2], token, [0]),
        lambda: decoder.step([-1], token, [0]),
        lambda: decoder.step([0], token, [8]),
        lambda: decoder.step([0], token, [-1]),
        lambda: decoder.step([0], token + 4000, [0]),
        lambda: decoder.step([0], -token - 1, [0]),
        lambda: decoder.step([0], token.int(), [0]),
        lambda: decoder.step([0], token[:, :3], [0]),
        lambda: decoder.step([0], token, [0, 1]),
        lambda: decoder.step([], token[:0], []),
        lambda: decoder.step([1], token, [0]),  # nothing was admitted
        lambda: decoder.admit(2, draw_states(3)),
        lambda: decoder.admit(0, draw_states(0)),
        lambda: decoder.admit(0, draw_states(3, hidden=32)),
        lambda: decoder.prefill(0, draw_tokens(9)),
    ]
    for call in outside:
        with pytest.raises(ValueError, match=r"out of range|of 2 with|not \[length|do not match"):
            call()
    assert torch.equal(decoder.step([0], token, [0]), wanted)


def test_a_tensor_of_another_model_is_named(model):
    name = "decoder.model.decoder.layers.1.fc2.weight"
    weights = StateDictWeights(model.state_dict() | {name: torch.zeros(64, 128)})
    with pytest.raises(CheckpointError, match=rf"{name} has the shape \[64, 128\]"):
        NativeDecoder(weights, geometry_of(model.config), 1, 10)


def test_unsupported_shapes_levels_and_sizes_are_refused(make, model):
    config = geometry_of(model.config)
    small = dataclasses.replace(config, heads=8)
    with pytest.raises(NativeUnavailableError, match="64 values in 8 heads"):
        NativeDecoder(RandomWeights(small), small, 1, 10)
    with pytest.raises(NativeUnavailableError, match="cannot run quantum"):
        make(level="quantum")
    with pytest.raises(NativeUnavailableError, match="no memory"):
        make(positions=2**30, slots=2**20)


def test_threads_end_with_their_decoder(make):
    def threads():
        return len(list(Path(f"/proc/{os.getpid()}/task").iterdir()))

    before = threads()
    decoder = make(threads=4)
    assert threads() == before + 3
    del decoder
    gc.collect()
    assert threads() == before


IN_THE_MIDDLE_OF_A_STEP = """
import threading, torch
from services.generation.musicgen.geometry import Geometry
from services.generation.musicgen.decoders.native.decoder import NativeDecoder
from services.generation.musicgen.checkpoint.random_weights import RandomWeights

geometry = Geometry(layers=8, hidden=512, heads=8, ffn=2048, codebooks=4, codebook_size=2048,
                    channels=1, cross_attention=True, max_positions=2048)
decoder = NativeDecoder(RandomWeights(geometry), geometry, 1, 1504, "fp32")
decoder.admit(0, torch.randn(5, 512))
tokens, started = torch.zeros(1, 4, dtype=torch.int64), threading.Event()
logits = torch.empty(2, 1, 4, 2048)

def step():
    # No call of torch that takes the interpreter's lock again: that alone aborts at exit.
    while True:
        decoder._forward([0], [1500], tokens=tokens, logits=logits)
        started.set()

threading.Thread(target=step, daemon=True).start()
started.wait()
"""


def test_a_process_can_exit_during_a_step():
    command = [sys.executable, "-c", IN_THE_MIDDLE_OF_A_STEP]
    ended = subprocess.run(
        command, cwd=Path(__file__).parents[5], timeout=LIMIT_SECONDS, check=False
    )
    assert ended.returncode == 0
