"""Linear layers without bias on the CPU, in the precisions that PyTorch has.

They multiply one CFG pair at a time: 8-bit kernels measure one range for all rows of a call, and a
library may choose its kernel by the number of rows. This makes the result of a pair bitwise
independent of other pairs. The weights of a layer stay in the cache from pair to pair.
"""

from __future__ import annotations

import platform
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from services.errors import EngineUnavailableError

LinearKind = Literal["fp32", "int8"]

Multiply = Callable[[Tensor], Tensor]
"""float32 `[rows, in]` -> float32 `[rows, out]`."""

INT8_ENGINES = ("fbgemm", "qnnpack")
"""Usable libraries of 8-bit layers, the preferred first: fbgemm is for x86, qnnpack for Arm."""

PACKED_FOR_ROWS = 2
"""Rows that the packed layout is optimised for: the two of a CFG pair."""


class Linear:
    """A weight in the layout that is fastest to multiply with."""

    def __init__(self, kind: LinearKind, weight: Tensor) -> None:
        """Pack float32 `[out, in]`; the caller may free its copy."""
        self._multiply = _pack_int8(weight) if kind == "int8" else _pack_fp32(weight)

    def __call__(self, pairs: Tensor) -> Tensor:
        """Multiply float32 `[pairs, ..., in]` to float32 `[pairs, ..., out]`."""
        if pairs.shape[0] == 1:
            return self._multiply(pairs.reshape(-1, pairs.shape[-1])).view(*pairs.shape[:-1], -1)
        products = [self._multiply(pair.reshape(-1, pair.shape[-1])) for pair in pairs]
        return torch.cat(products).view(*pairs.shape[:-1], -1)


def _pack_fp32(weight: Tensor) -> Multiply:
    if not has_packed_fp32():
        return lambda rows: functional.linear(rows, weight)
    operators: Any = torch.ops.mkldnn
    packed = operators._reorder_linear_weight(weight.contiguous(), PACKED_FOR_ROWS)

    def multiply(rows: Tensor) -> Tensor:
        product: Tensor = operators._linear_pointwise(rows, packed, None, "none", [], "")
        return product

    return multiply


def has_packed_fp32() -> bool:
    """Whether oneDNN can use packed weights: for two rows, several times as fast as MKL."""
    return platform.machine() in ("x86_64", "AMD64") and bool(torch._C._has_mkldnn)


def _pack_int8(weight: Tensor) -> Multiply:
    scales = (weight.abs().amax(1) / 127).clamp_min(torch.finfo(torch.float32).tiny)
    integers = torch.round(weight / scales[:, None]).to(torch.int8)
    zeros = torch.zeros(len(scales), dtype=torch.long)
    with warnings.catch_warnings():
        # Deprecated, but the pinned release has no other way to these kernels.
        warnings.filterwarnings("ignore", "torch.quantize_per_tensor", UserWarning)
        quantised = torch._make_per_channel_quantized_tensor(integers, scales.double(), zeros, 0)
    operators: Any = torch.ops.quantized
    reduced = not adds_without_saturation()
    with _engine(int8_engine()):
        packed = operators.linear_prepack(quantised, None)

    def multiply(rows: Tensor) -> Tensor:
        product: Tensor = operators.linear_dynamic(rows, packed, reduced)
        return product

    return multiply


def int8_engine() -> str:
    """Return the 8-bit library of this build of PyTorch.

    Raises:
        EngineUnavailableError: the build has none.
    """
    for engine in INT8_ENGINES:
        if engine in torch.backends.quantized.supported_engines:
            return engine
    raise EngineUnavailableError(
        "This build of PyTorch has no 8-bit linear layers. Set DGX_MUSIC_CPU_PRECISION=fp32."
    )


def adds_without_saturation() -> bool:
    """Whether this processor can sum products of full 8-bit activations."""
    # Without VNNI, FBGEMM adds two products in 16 bits, which only hold 7-bit activations.
    return platform.machine() not in ("x86_64", "AMD64") or torch.cpu._is_vnni_supported()


@contextmanager
def _engine(name: str) -> Iterator[None]:
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = name
    try:
        yield
    finally:
        torch.backends.quantized.engine = before
