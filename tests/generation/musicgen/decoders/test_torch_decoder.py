"""The decoder in plain PyTorch."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from transformers.models.musicgen.modeling_musicgen import MusicgenSinusoidalPositionalEmbedding

from services.errors import CheckpointError, EngineUnavailableError
from services.generation.musicgen import linear as linear_module
from services.generation.musicgen.decoders.layer_weights import sinusoids
from services.generation.musicgen.decoders.torch_decoder import TorchDecoder
from services.generation.musicgen.linear import Linear
from services.generation.weights.weights import StateDictWeights
from tests.generation.musicgen.oracle import decoder_of
from tests.generation.musicgen.tiny import geometry_of, tiny_melody_model, tiny_model

KINDS = ["fp32", "int8"]


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model()


@pytest.fixture(scope="module")
def melody() -> Any:
    return tiny_melody_model()


def states(length: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(length, 64, generator=torch.Generator().manual_seed(seed))


def tokens(length: int, seed: int = 0, codebooks: int = 4) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2049, (codebooks, length), generator=random)


def run(decoder: TorchDecoder, slot: int, given: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Step a slot through codes and return the logits `[steps, 2, codebooks, vocabulary]`."""
    first = decoder.admit(slot, given)
    steps = [
        decoder.step([slot], codes[None, :, at], [first + at])[:, 0] for at in range(codes.shape[1])
    ]
    return torch.stack(steps)


def error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((got - wanted).abs().max() / wanted.abs().max())


@torch.no_grad()
def test_logits_equal_those_of_transformers(model: Any) -> None:
    given, codes = states(7), tokens(12)
    both = torch.stack([given, torch.zeros_like(given)])
    output = model.decoder(input_ids=codes.repeat(2, 1), encoder_hidden_states=both)
    wanted = output.logits.view(2, 4, 12, -1).permute(2, 0, 1, 3)
    assert error(run(decoder_of(model), 0, given, codes), wanted) < 1e-5
    # int8 must be close but not equal: equal logits would mean that it is not used.
    assert 1e-4 < error(run(decoder_of(model, linear="int8"), 0, given, codes), wanted) < 0.05


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1, 2, 9])
def test_prefill_equals_steps(model: Any, kind: str, length: int) -> None:
    given, codes = states(5), tokens(12)
    decoder = decoder_of(model, slots=2, linear=kind)
    wanted = run(decoder, 0, given, codes)[-1]
    decoder.admit(1, given)
    decoder.prefill(1, codes[:, :length])
    for at in range(length, 12):
        logits = decoder.step([1], codes[None, :, at], [at])[:, 0]
    assert error(logits, wanted) < (1e-5 if kind == "fp32" else 0.05)


def test_prefill_after_the_prefix_of_a_melody_equals_steps(melody: Any) -> None:
    given, codes = states(6), tokens(9)
    decoder = decoder_of(melody, slots=2)
    wanted = run(decoder, 0, given, codes)[-1]
    assert decoder.admit(1, given) == 6
    decoder.prefill(1, codes[:, :8])
    assert error(decoder.step([1], codes[None, :, 8], [14])[:, 0], wanted) < 1e-5


def test_the_unconditional_prefix_of_a_melody_is_zeros_unless_given(melody: Any) -> None:
    given, other, codes = states(6), states(6, seed=1), tokens(1)
    decoder = decoder_of(melody)

    def unconditional(*prefix: torch.Tensor) -> torch.Tensor:
        decoder.admit(0, given, *prefix)
        return decoder.step([0], codes[None, :, 0], [6])[1, 0]

    assert torch.equal(unconditional(), unconditional(torch.zeros_like(given)))
    assert not torch.equal(unconditional(), unconditional(other))


@pytest.mark.parametrize("kind", KINDS)
def test_logits_do_not_depend_on_other_slots(model: Any, kind: str) -> None:
    decoder = decoder_of(model, slots=3, linear=kind)
    codes, others = tokens(8), [tokens(20, seed=1) * 0 + 5, tokens(20, seed=2)]
    wanted = run(decoder, 0, states(5), codes)
    # Another slot, in a batch with other positions and prompts.
    decoder.admit(2, states(5))
    for slot, length in ((0, 14), (1, 3)):
        decoder.admit(slot, states(length, seed=slot) * 40)
    decoder.prefill(0, others[0][:, :9])
    for at in range(8):
        together = torch.stack([others[0][:, at], codes[:, at], others[1][:, at]])
        logits = decoder.step([0, 2, 1], together, [9 + at, at, at])
        assert torch.equal(logits[:, 1], wanted[at])


def test_a_slot_keeps_nothing_of_its_last_sequence(model: Any) -> None:
    decoder = decoder_of(model)
    wanted = run(decoder, 0, states(5), tokens(6))
    run(decoder, 0, states(9, seed=1), tokens(12, seed=1))
    assert torch.equal(run(decoder, 0, states(5), tokens(6)), wanted)


def test_sinusoids_continue_past_the_table_of_the_checkpoint() -> None:
    theirs = MusicgenSinusoidalPositionalEmbedding(8, 64)
    wanted = theirs(torch.zeros(1, 4, 1, dtype=torch.long), past_key_values_length=20)
    assert error(sinusoids(21, 64)[20], wanted[0]) < 1e-6


@pytest.mark.parametrize("saturates", [False, True])
@pytest.mark.parametrize("engine", ["fbgemm", "qnnpack"])
def test_each_8_bit_library_is_within_its_rounding_error(
    monkeypatch: pytest.MonkeyPatch, engine: str, saturates: bool
) -> None:
    if engine not in torch.backends.quantized.supported_engines:
        pytest.skip(f"this build of PyTorch has no {engine}")
    if engine == "fbgemm" and not saturates and not linear_module.adds_without_saturation():
        pytest.skip("fbgemm needs VNNI to add without saturation")
    before = torch.backends.quantized.engine
    monkeypatch.setattr(linear_module, "INT8_ENGINES", (engine,))
    monkeypatch.setattr(linear_module, "adds_without_saturation", lambda: not saturates)
    weight, rows = states(32) * torch.logspace(-3, 0, 32)[:, None], states(2, seed=1)
    product = Linear("int8", weight)(rows[None])[0]
    # Half a rounding step of each factor, times the other factor.
    weight_step = weight.abs().amax(1) / 127
    rows_step = (rows.max() - rows.min()) / (127 if saturates else 255)
    bound = weight_step * rows.abs().sum(1)[:, None] + rows_step * weight.abs().sum(1)
    assert ((product - rows @ weight.T).abs() < 0.6 * bound).all()
    assert torch.backends.quantized.engine == before


def test_a_weight_of_zeros_has_a_scale() -> None:
    product = Linear("int8", torch.zeros(8, 64))(states(2)[None])
    assert torch.equal(product, torch.zeros(1, 2, 8))


def test_a_build_without_eight_bits_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_module, "INT8_ENGINES", ())
    with pytest.raises(EngineUnavailableError, match="DGX_MUSIC_CPU_PRECISION=fp32"):
        Linear("int8", torch.zeros(8, 64))


def test_without_packed_weights_the_product_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, rows = states(96), states(2, seed=1)[None]
    packed = Linear("fp32", weight)(rows)
    monkeypatch.setattr(linear_module, "has_packed_fp32", lambda: False)
    assert error(Linear("fp32", weight)(rows), packed) < 1e-5


class Watched(StateDictWeights):
    """Counts how many of its tensors are in memory when the next is read."""

    def __init__(self, state_dict: dict[str, torch.Tensor]) -> None:
        super().__init__(state_dict)
        self._given: list[weakref.ref[torch.Tensor]] = []
        self.most = 0

    def get(self, name: str) -> torch.Tensor:
        if "layers" in name and "norm" not in name:
            self.most = max(self.most, sum(each() is not None for each in self._given))
        tensor = super().get(name).clone()
        if "layers" in name and "norm" not in name:
            self._given.append(weakref.ref(tensor))
        return tensor


def test_int8_loading_holds_one_float32_layer_at_a_time(model: Any) -> None:
    weights = Watched(model.state_dict())
    TorchDecoder(weights, geometry_of(model.config), 1, 8, "int8")
    in_a_layer = 10
    assert 0 < weights.most < in_a_layer


def test_missing_tensors_and_wrong_shapes_are_refused(model: Any) -> None:
    state, name = model.state_dict(), "decoder.model.decoder.layers.1.fc1.weight"
    geometry = geometry_of(model.config)
    lacking = StateDictWeights({key: value for key, value in state.items() if key != name})
    with pytest.raises(CheckpointError, match=r"no tensor decoder.*fc1"):
        TorchDecoder(lacking, geometry, 1, 8)
    cut = StateDictWeights(state | {name: state[name][:-1]})
    with pytest.raises(CheckpointError, match=r"shape \[255, 64\].*says \[256, 64\]"):
        TorchDecoder(cut, geometry, 1, 8)


def test_geometry_of_configurations(model: Any, melody: Any) -> None:
    geometry = geometry_of(tiny_model(stereo=True).config)
    assert (geometry.codebooks, geometry.channels, geometry.cross_attention) == (8, 2, True)
    assert (geometry.head_size, geometry.pad_token, geometry.ffn) == (16, 2048, 256)
    assert not geometry_of(melody.config).cross_attention
