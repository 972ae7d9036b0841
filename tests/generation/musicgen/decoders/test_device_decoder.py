import importlib.util
import sys
from types import SimpleNamespace

import pytest
import torch

from services.generation.musicgen.decoders.device_decoder import (
    DeviceDecoder,
    MaskedAttention,
    load_triton_attention,
)
from services.generation.musicgen.decoders.torch_decoder import TorchDecoder
from services.generation.weights.weights import StateDictWeights
from tests.generation.musicgen.tiny import geometry_of, tiny_melody_model, tiny_model

CPU = torch.device("cpu")
BOOKS, SIZE, HIDDEN = 4, 2048, 64
GEOMETRY = geometry_of(tiny_model().config)
ATTENTIONS = ["masked", "triton"]


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def triton_attention(rows, positions):
    """Return the GPU kernels; on a CPU they run in Triton's interpreter."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton comes with a CUDA build of torch")
    from services.generation.musicgen.decoders.slot_attention import TritonAttention

    return TritonAttention(rows, GEOMETRY.heads, GEOMETRY.head_size, positions, CPU)


@pytest.fixture(params=ATTENTIONS)
def decoder(request, model):
    attention = MaskedAttention()
    if request.param == "triton":
        attention = triton_attention(rows=6, positions=300)
    return DeviceDecoder(
        StateDictWeights(model.state_dict()),
        GEOMETRY,
        slots=3,
        positions=300,
        device=CPU,
        dtype=torch.float32,
        attention=attention,
    )


def _states(length, seed):
    return torch.randn(length, HIDDEN, generator=torch.Generator().manual_seed(seed))


def _tokens(length, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, SIZE, (BOOKS, length), generator=generator)


@torch.inference_mode()
def _reference(model, states, tokens):
    """Return logits `[2, length, codebooks, size]` of transformers' decoder, teacher-forced."""
    length = tokens.shape[1]
    both = torch.stack([states, torch.zeros_like(states)])
    ids = tokens[None].expand(2, -1, -1).reshape(2 * BOOKS, length)
    out = model.decoder(input_ids=ids, encoder_hidden_states=both, use_cache=False).logits
    return out.view(2, BOOKS, length, SIZE).transpose(1, 2)


def _close(found, wanted):
    return (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_steps_give_the_logits_of_transformers_in_any_batch(decoder, model):
    states = [_states(length, length) for length in (5, 9, 3)]
    tokens = [_tokens(length, length) for length in (140, 9, 20)]
    starts = [0, 100, 120]
    wanted = [_reference(model, *one) for one in zip(states, tokens, strict=True)]
    for slot, one in enumerate(states):
        assert decoder.admit(slot, one) == 0
    for now in range(140):
        here = [slot for slot in (2, 0, 1) if 0 <= now - starts[slot] < tokens[slot].shape[1]]
        positions = [now - starts[slot] for slot in here]
        fed = torch.stack([tokens[slot][:, at] for slot, at in zip(here, positions, strict=True)])
        found = decoder.step(here, fed, positions)
        for row, (slot, at) in enumerate(zip(here, positions, strict=True)):
            assert _close(found[:, row], wanted[slot][:, at])


def test_a_prefill_equals_as_many_steps(decoder, model):
    states, tokens = _states(6, 1), _tokens(30, 2)
    wanted = _reference(model, states, tokens)
    decoder.admit(1, states)
    decoder.prefill(1, tokens[:, :25])
    for at in range(25, 30):
        assert _close(decoder.step([1], tokens[None, :, at], [at])[:, 0], wanted[:, at])


def test_a_slot_keeps_nothing_of_its_last_sequence(decoder, model):
    decoder.admit(0, _states(20, 3))
    decoder.prefill(0, _tokens(60, 4))
    states, tokens = _states(2, 5), _tokens(3, 6)
    decoder.admit(0, states)
    wanted = _reference(model, states, tokens)
    for at in range(3):
        assert _close(decoder.step([0], tokens[None, :, at], [at])[:, 0], wanted[:, at])


def test_too_many_states_are_refused(decoder):
    with pytest.raises(ValueError, match="513 states"):
        decoder.admit(0, torch.zeros(513, HIDDEN))


def test_a_melody_model_has_a_prefix_for_each_row():
    model = tiny_melody_model()
    weights, geometry = StateDictWeights(model.state_dict()), geometry_of(model.config)
    decoders = (
        DeviceDecoder(weights, geometry, 2, 60, device=CPU, dtype=torch.float32),
        TorchDecoder(weights, geometry, 2, 60),
    )
    tokens = _tokens(9, 1)
    logits = []
    for decoder in decoders:
        assert decoder.admit(1, _states(20, 2), _states(20, 3)) == 20
        decoder.prefill(1, tokens[:, :8])
        logits.append(decoder.step([1], tokens[None, :, 8], [28]))
    assert _close(*logits)


class Broken:
    """Kernels that cannot be compiled."""

    def __init__(self, *_):
        pass

    def attend_self(self, *_):
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")


@pytest.mark.parametrize("kernels", [Broken, None])
def test_kernels_that_do_not_run_are_skipped_with_one_line(monkeypatch, caplog, kernels):
    name = "services.generation.musicgen.decoders.slot_attention"
    module = None if kernels is None else SimpleNamespace(TritonAttention=kernels)
    monkeypatch.setitem(sys.modules, name, module)
    assert load_triton_attention(2, GEOMETRY, 40, CPU, torch.float32) is None
    (line,) = [record.getMessage() for record in caplog.records]
    assert ("Failed to find C compiler." if kernels else name) in line
    assert "\n" not in line


def test_kernels_without_memory_raise_for_a_retry_with_fewer_slots(monkeypatch):
    def make(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    module = SimpleNamespace(TritonAttention=make)
    monkeypatch.setitem(sys.modules, "services.generation.musicgen.decoders.slot_attention", module)
    with pytest.raises(torch.OutOfMemoryError):
        load_triton_attention(2, GEOMETRY, 40, CPU, torch.float32)


def test_kernels_are_run_once_before_they_are_used(monkeypatch):
    attention = triton_attention(rows=2, positions=40)
    module = SimpleNamespace(TritonAttention=lambda *_: attention)
    monkeypatch.setitem(sys.modules, "services.generation.musicgen.decoders.slot_attention", module)
    assert load_triton_attention(2, GEOMETRY, 40, CPU, torch.float32) is attention
