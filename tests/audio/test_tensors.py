"""Tensors of the installed torch; test_arrays has a substitute for machines without it."""

import numpy as np
import pytest

from services.audio import AudioExporter, as_audio

torch = pytest.importorskip("torch", reason="torch is not part of the core install")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("grad", [False, True])
def test_tensors_of_any_float_type_are_accepted(dtype, grad):
    tensor = torch.tensor([[0.5, -0.25, 0.0]], dtype=getattr(torch, dtype), requires_grad=grad)
    audio = as_audio(tensor)
    assert audio.dtype == np.float32
    assert audio.tolist() == [[0.5, -0.25, 0.0]]


def test_integer_tensors_are_scaled():
    assert as_audio(torch.tensor([16384, -32768], dtype=torch.int16)).tolist() == [[0.5, -1.0]]


def test_strides_do_not_matter():
    tensor = torch.arange(6, dtype=torch.float32).reshape(3, 2).t() / 8
    assert np.array_equal(as_audio(tensor), tensor.numpy())
    assert as_audio(tensor).flags.c_contiguous


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_tensors_with_invalid_samples_are_refused(value):
    with pytest.raises(ValueError, match="NaN or infinite"):
        as_audio(torch.tensor([0.0, value], dtype=torch.bfloat16))


def test_a_tensor_that_requires_grad_is_exported(tmp_path):
    tensor = (torch.rand(2, 32_000, requires_grad=True) - 0.5) / 2
    path, size = AudioExporter().export_wav(tensor, tmp_path / "take.wav")
    assert path.stat().st_size == size > 128_000
