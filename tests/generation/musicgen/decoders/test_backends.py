"""The choice of the decoder, and the reasons in the log for those that are skipped."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from services.errors import EngineUnavailableError
from services.generation.musicgen.checkpoint.random_weights import RandomWeights
from services.generation.musicgen.decoders import backends
from services.generation.musicgen.decoders import torch_decoder as decoder
from services.generation.musicgen.decoders.native import library
from services.generation.musicgen.decoders.self_check import QuantisationError
from tests.generation.musicgen.decoders.test_device_decoder import GEOMETRY


def choose(precision: Any = "auto") -> backends.Backend:
    return backends.choose_backend(
        RandomWeights(GEOMETRY), GEOMETRY, slots=1, use_gpu=False, cpu_precision=precision
    )


def raising(error: Exception) -> Any:
    def make(*_: Any, **__: Any) -> None:
        raise error

    return make


@pytest.fixture
def without_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A machine without a library and without a compiler."""
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setattr(library, "library_folders", lambda: [tmp_path])
    library.library.cache_clear()
    yield
    library.library.cache_clear()


@pytest.mark.parametrize(("precision", "label"), [("int8", "int8"), ("fp32", "float32")])
@pytest.mark.usefixtures("without_compiler")
def test_without_a_compiler_pytorch_is_used_and_one_line_gives_the_reason(
    caplog, precision, label
) -> None:
    assert choose(precision).label == f"{label}, PyTorch"
    (line,) = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert line.startswith(f"skipped {label}, native: The native step could not be built: no C")
    assert "\n" not in line


def test_a_refused_decoder_is_freed_before_the_next_is_loaded(monkeypatch, caplog) -> None:
    refused = []

    def check(model: Any, *_: Any) -> None:
        refused.append(weakref.ref(model))
        raise QuantisationError("too far")

    def make(*arguments: Any) -> Any:
        assert all(reference() is None for reference in refused)
        return whole(*arguments)

    whole = decoder.TorchDecoder
    monkeypatch.setattr(backends, "self_check", check)
    monkeypatch.setattr(decoder, "TorchDecoder", make)
    assert choose().label.startswith("float32")
    assert len(refused) >= 1
    assert caplog.text.count("too far") == len(refused)


def test_a_precision_that_cannot_run_is_an_error_that_says_why(monkeypatch) -> None:
    monkeypatch.setattr(backends, "self_check", raising(QuantisationError("Too far. Use float32.")))
    with pytest.raises(EngineUnavailableError, match=r"Too far\. Use float32\."):
        choose("int8")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A GPU of 139 GiB that runs out of memory above `room` slots, and records the attempts."""
    seen = SimpleNamespace(room=64, tried=[])

    def make(_source: Any, _geometry: Any, slots: int, *_: Any, **__: Any) -> None:
        seen.tried.append(slots)
        if slots > seen.room:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    about = SimpleNamespace(name="a GPU", is_integrated=False)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (139 * 2**30,) * 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: about)
    monkeypatch.setattr(backends, "DeviceDecoder", make)
    monkeypatch.setattr(backends, "GraphedDecoder", lambda made: made)
    return seen


@pytest.mark.parametrize("slots", [1, 3, 64])
def test_a_gpu_with_enough_memory_gets_all_slots(gpu, caplog, slots) -> None:
    assert backends.load_on_gpu(RandomWeights(GEOMETRY), GEOMETRY, slots).label == "bfloat16, a GPU"
    assert gpu.tried == [slots]
    assert not caplog.records


def test_a_gpu_that_runs_out_of_memory_gets_fewer_slots_and_a_warning(gpu, caplog) -> None:
    gpu.room = 2
    backends.load_on_gpu(RandomWeights(GEOMETRY), GEOMETRY, 6)
    assert gpu.tried == [6, 4, 2]
    assert "holds 2 requests at once, not 6" in caplog.text


def test_a_gpu_without_memory_for_one_slot_is_an_error(gpu) -> None:
    gpu.room = 0
    with pytest.raises(EngineUnavailableError, match="DGX_MUSIC_USE_GPU=false"):
        backends.load_on_gpu(RandomWeights(GEOMETRY), GEOMETRY, 2)
    assert gpu.tried == [2, 1]


def test_a_gpu_is_used_if_there_is_one_and_it_is_allowed(monkeypatch, gpu) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    source, settings = RandomWeights(GEOMETRY), {"slots": 2, "cpu_precision": "fp32"}
    chosen = backends.choose_backend(source, GEOMETRY, use_gpu=True, **settings)
    assert (chosen.label, chosen.device) == ("bfloat16, a GPU", torch.device("cuda", 0))
    assert gpu.tried == [2]
    on_cpu = backends.choose_backend(source, GEOMETRY, use_gpu=False, **settings)
    assert on_cpu.device == torch.device("cpu")
    assert gpu.tried == [2]


def test_a_full_gpu_is_an_error_before_anything_is_allocated(monkeypatch, gpu) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (2**30, 2**37))
    with pytest.raises(EngineUnavailableError, match=r"1\.0 GiB free"):
        backends.load_on_gpu(RandomWeights(GEOMETRY), GEOMETRY, 1)
    assert gpu.tried == []


@pytest.mark.parametrize(
    ("precision", "labels"),
    [
        ("auto", ["int8, native", "int8, PyTorch", "float32, native", "float32, PyTorch"]),
        ("int8", ["int8, native", "int8, PyTorch"]),
        ("fp32", ["float32, native", "float32, PyTorch"]),
    ],
)
def test_cpu_decoders_are_tried_in_order_of_speed(precision, labels) -> None:
    tried = list(backends._cpu_decoders(RandomWeights(GEOMETRY), GEOMETRY, 1, precision))
    assert [label for label, _, _ in tried] == labels
    assert [is_quantised for _, _, is_quantised in tried] == [
        label.startswith("int8") for label in labels
    ]


def test_only_a_melody_model_needs_positions_for_a_prefix() -> None:
    melody = replace(GEOMETRY, cross_attention=False)
    assert backends.positions_needed(GEOMETRY) == 1504
    assert backends.positions_needed(melody) == 1504 + 512
