"""Headers of safetensors files."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from services.errors import CheckpointError
from services.generation.weights.safetensors_header import read_header


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_header_is_read_or_refused(tmp_path, data):
    values = st.none() | st.booleans() | st.integers(-5, 40) | st.text(max_size=3)
    values |= st.sampled_from([0.0, 2.0, 8.0, 1e300])
    shapes = st.lists(st.integers(-2, 4) | values, max_size=3)
    entry = st.fixed_dictionaries(
        {},
        optional={
            "dtype": st.sampled_from(["F32", "F16", "U8", "F8"]) | values,
            "shape": shapes | values,
            "data_offsets": st.lists(st.integers(-8, 40) | values, max_size=3) | values,
        },
    )
    header = data.draw(st.dictionaries(st.text(max_size=4), entry | values, max_size=3) | values)
    text = json.dumps(header).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(data.draw(st.integers(0, 40))))
    tensors = {}
    with suppress(CheckpointError):
        tensors = read_header(path)
    for tensor in tensors.values():
        assert all(type(size) is int for size in (tensor.start, *tensor.shape))
        assert 8 + len(text) <= tensor.start <= tensor.start + tensor.bytes <= path.stat().st_size


@pytest.mark.parametrize(
    ("shape", "offsets", "more", "word"),
    [
        ([2, 3], [0, 24], 1, "33 bytes"),
        ([2, 3], [0, 20], 0, "do not fit its shape"),
        ([2, 3], [4, 28], -4, "bytes, and its header"),
        ([-2, -3], [0, 24], 0, "do not fit its shape"),
        ([2.0, 3], [0, 24], 0, "does not describe tensors"),
        ([2, 3], [0.0, 24], 0, "does not describe tensors"),
    ],
)
def test_a_header_that_does_not_fit_its_file_is_refused(tmp_path, shape, offsets, more, word):
    entry = {"dtype": "F32", "shape": shape, "data_offsets": offsets}
    text = json.dumps({"a": entry}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(offsets[1] + more))
    with pytest.raises(CheckpointError) as caught:
        read_header(path)
    assert word.replace("33", str(8 + len(text) + 25)) in str(caught.value)


def test_the_reference_writer_and_this_reader_agree(tmp_path):
    tensors = {
        "a": torch.rand(3, 5),
        "b": torch.arange(7),
        "c": torch.rand(()),
        "d": torch.rand(0, 4),
    }
    save_file(tensors, tmp_path / "a.safetensors", {"format": "pt"})
    found = read_header(tmp_path / "a.safetensors")
    assert {name: stored.shape for name, stored in found.items()} == {
        name: tuple(tensor.shape) for name, tensor in tensors.items()
    }


def write(path, header: bytes, data: bytes = b"", length: int | None = None):
    size = len(header) if length is None else length
    path.write_bytes(size.to_bytes(8, "little") + header + data)
    return path


@pytest.mark.parametrize(
    ("header", "length", "message"),
    [
        (b"", 0, "does not start like"),
        (b"{}", 1, "does not start like"),
        (b"{}", (100 << 20) + 1, "does not start like"),
        (b"{}", 2**63, "does not start like"),
        (b"{}", 3, "ends within its header"),
        (b"{]", None, "not JSON"),
        (b"\xff\xff", None, "not JSON"),
        (b"[1, 2]", None, "does not describe tensors"),
    ],
)
def test_a_damaged_start_is_refused(tmp_path, header, length, message):
    with pytest.raises(CheckpointError, match=rf"a\.safetensors is damaged: .*{message}"):
        read_header(write(tmp_path / "a.safetensors", header, length=length))


@pytest.mark.parametrize("content", [b"", b"\0" * 7])
def test_a_file_without_a_length_is_refused(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="does not start like"):
        read_header(tmp_path / "a.safetensors")


def test_an_unreadable_file_is_reported_with_the_reason(tmp_path):
    with pytest.raises(CheckpointError, match=r"none cannot be read: No such file or directory\."):
        read_header(tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"cannot be read: Is a directory\."):
        read_header(tmp_path)


def test_metadata_is_not_a_tensor(tmp_path):
    header = json.dumps({"__metadata__": {"format": "pt"}}).encode()
    assert read_header(write(tmp_path / "a.safetensors", header)) == {}


def test_offsets_count_from_the_end_of_the_header(tmp_path):
    entry = {"dtype": "I16", "shape": [3], "data_offsets": [2, 8]}
    header = json.dumps({"a": entry}).encode()
    (stored,) = read_header(write(tmp_path / "a.safetensors", header, bytes(8))).values()
    assert (stored.start, stored.bytes, stored.shape) == (8 + len(header) + 2, 6, (3,))
